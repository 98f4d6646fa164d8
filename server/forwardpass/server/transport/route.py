"""What a transport is given to answer, and what every transport does."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from forwardpass.server.errors import quote
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Failure, Reason

# How long threads that take calls in may be busy with what they have, in seconds, before they are
# taken to hang.
HANG_SECONDS = 5.0
# What a call is told that is not begun.
BUSY = Failure(
    Reason.QUEUE_FULL,
    "too many calls are open, or begin at this moment; try again in 0.1 s",
    retry_after=0.1,
)


class CallType(Enum):
    """How many messages go each way; the value is the label of the grpc_server_* metrics."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


def _turn_away() -> Failure:
    return BUSY


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a method.

    Attributes:
        call_type: How many messages go each way.
        begin: Begins to answer a call, on its own thread; what it raises fails the call. It takes
            the call and its one message, which is empty where the caller streams.
        check: What a call has to pass before its message is received, on its own thread; what it
            raises fails the call. None where all pass.
        turn_away: Counts a call that is not begun, for want of a thread, and returns what its
            caller is told.
    """

    call_type: CallType
    begin: Callable[[StreamCall, bytes], None]
    check: Callable[[StreamCall], None] | None = None
    turn_away: Callable[[], Failure] = _turn_away


Routes = Mapping[str, Route]


def _refuse(call: StreamCall, _: bytes) -> None:
    call.fail(Failure(Reason.UNIMPLEMENTED, f"this server has no method {quote(call.method)}"))


# Answers a method that has no route. As a stream it is answered before any message is taken in.
UNKNOWN = Route(CallType.BIDI_STREAM, _refuse)


class Transport(ABC):
    """Listens on one address and turns what arrives into calls."""

    @abstractmethod
    def start(self) -> int:
        """Binds and begins to answer; returns the port.

        Raises:
            OSError: The address cannot be bound.
        """

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it takes what arrives, as far as can be told at once."""

    @abstractmethod
    def cpu_seconds(self) -> float | None:
        """Processor time of the one thread of all calls; None where each has a thread."""

    @abstractmethod
    def stop(self, grace: float) -> None:
        """Takes no more calls, gives those under way `grace` seconds, and cancels the rest."""
