"""A call as its handler sees it: plain callbacks and bytes, no asyncio and no grpc types."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVarTuple

import structlog

from forwardpass.server.errors import CallError
from forwardpass.wire import Failure, Reason

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID_LENGTH = 64
_log = structlog.get_logger()
Ts = TypeVarTuple("Ts")


class CallType(Enum):
    """How many messages go each way; the value is the label of the grpc_server_* metrics."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


class Call(ABC):
    """One call, from its arrival to its end.

    A handler ends a call exactly once: with `reply`, `finish` or `fail`. After the caller has gone
    these do nothing. All methods may be called from any thread; what is called on the call's own
    (where the handler and what is resumed run) may overtake what comes from another.

    Attributes:
        method: The path, such as "/forwardpass.v1.InferenceService/Predict".
        deadline: When the caller stops waiting, by `time.monotonic`; None for never.
        started: When it arrived, by `time.perf_counter`.
        size: Bytes of its one message, once it has been taken in; 0 for a stream.
    """

    __slots__ = ("_request_id", "deadline", "method", "size", "started")

    def __init__(self, method: str, deadline: float | None) -> None:
        self.method = method
        self.deadline = deadline
        self.started = time.perf_counter()
        self.size = 0
        self._request_id = ""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What the caller sent beside its message; binary values are left out."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""

    @property
    def request_id(self) -> str:
        """The caller's own `x-request-id`, or one made here.

        It stands in every log line and error of this call. Most calls never need it.
        """
        if not self._request_id:
            given = self.metadata.get(REQUEST_ID_KEY, "")[:_REQUEST_ID_LENGTH]
            self._request_id = given or uuid.uuid4().hex
        return self._request_id

    @property
    def elapsed(self) -> float:
        """Seconds since it arrived."""
        return time.perf_counter() - self.started

    @abstractmethod
    def reply(self, message: bytes) -> None:
        """Sends the one answer and ends the call well."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Sends one of several answers."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the call well after what was sent."""

    @abstractmethod
    def fail(self, failure: Failure) -> None:
        """Ends the call with a failure."""

    @abstractmethod
    def read(self) -> None:
        """Asks for the next message of a stream; it goes to the receiver that the handler gave.

        It is asked for once what was sent before has been written, so a caller that does not read
        is not read from either.
        """

    @abstractmethod
    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """Runs a step on the call's own thread, once what was sent before has been written.

        Not after the call has ended. A worker hands an answer back with it, and is free for the
        next job.
        """

    @abstractmethod
    def offload(self, step: Callable[[], None]) -> None:
        """Runs a step that takes long where it keeps no other call waiting."""

    @abstractmethod
    def on_end(self, callback: "OnEnd") -> None:
        """Has the callback called once, with the call and its status code, when it ends at all."""

    def guard(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """Runs a step, and fails the call with what the step raises.

        What is not a `CallError` is a fault of ours: the caller learns the request id, the log the
        rest.
        """
        try:
            step(*args)
        except CallError as error:
            self.fail(error.failure)
        except Exception:  # noqa: BLE001  # whatever it is, the caller gets an answer
            self.fault()

    def fault(self) -> None:
        """Fails the call for the exception being handled, which is a fault of ours."""
        _log.exception("call_failed", method=self.method, request_id=self.request_id)
        self.fail(
            Failure(
                Reason.INTERNAL,
                f"internal error; the server's log has it under request id {self.request_id}",
                request_id=self.request_id,
            )
        )


# Takes a call that has ended, and its status code.
OnEnd = Callable[[Call, int], None]
# Takes each message of a stream, and None when the caller has sent its last.
Receiver = Callable[[bytes | None], None]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a method.

    Attributes:
        kind: How many messages go each way.
        handle: Takes the call and its one message. For `BIDI_STREAM` there is no message yet (it
            is empty), and it returns the receiver; it asks for messages with `Call.read`.
        blocks: Whether it waits for something, and must not be run where other calls are.
    """

    kind: CallType
    handle: Callable[[Call, bytes], Receiver | None]
    blocks: bool = False


Routes = Mapping[str, Route]


class Transport(ABC):
    """Listens on one address and turns what arrives into calls."""

    @abstractmethod
    def start(self) -> int:
        """Binds and begins to answer; returns the port.

        Raises:
            OSError: The address cannot be bound.
        """

    @abstractmethod
    def stop(self, grace: float) -> None:
        """Takes no more calls, gives those under way `grace` seconds, and cancels the rest."""
