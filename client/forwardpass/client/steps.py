"""What a client does for a method, step by step, and nothing of how it waits.

A method is written once, as a generator: it yields a step, is sent what the step gave (or is thrown
what it raised), and returns the method's result. `Client` does the steps by blocking, and
`AsyncClient` by awaiting.

    flow ── Call(...) ──► driver ──► gRPC
         ◄── response, or grpc.RpcError thrown in
"""

import time
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from forwardpass.client.settings import Pairs

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


@dataclass(slots=True)
class Call:
    """Makes a unary call; gives the response.

    Attributes:
        method: Its name among `Methods`.
        message: The request.
        seconds: How long it may take.
        metadata: Sent with it.
        began: When its time began, by `time.monotonic`.
    """

    method: str
    message: bytes
    seconds: float
    metadata: Pairs
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Begin(Call):
    """Opens a stream of answers to one request; gives it with its first answer, or `END`."""


@dataclass(slots=True)
class Pause:
    """Waits so many seconds; raises `Cancelled` where the client is closed meanwhile."""

    seconds: float


@dataclass(slots=True)
class Offload:
    """Does what may take long on a processor or a disk; gives what it returns."""

    work: Callable[[], Any]


@dataclass(slots=True)
class Warn:
    """Warns at the line that called the client.

    Attributes:
        text: What of.
        kind: The warning's class.
    """

    text: str
    kind: type[Warning]


@dataclass(slots=True)
class Open:
    """Opens a stream of both ways, for `Send` and `Receive`; ends the one before.

    Attributes:
        method: Its name among `Methods`.
        seconds: How long all of it may take.
        metadata: Sent with it.
    """

    method: str
    seconds: float
    metadata: Pairs


@dataclass(slots=True)
class Send:
    """Sends a request over the stream that is open; None says that there are no more."""

    message: bytes | None


@dataclass(slots=True)
class Receive:
    """Waits for the next answer over the stream that is open; gives None at its end."""


@dataclass(slots=True)
class Take:
    """Takes the next of the caller's items; gives `END` after the last."""


@dataclass(slots=True)
class Emit:
    """Hands results to the caller."""

    results: list[Any]


Step: TypeAlias = Call | Begin | Pause | Offload | Warn | Open | Send | Receive | Take | Emit
Flow: TypeAlias = Generator[Step, Any, Result]
END = object()
Items: TypeAlias = Iterable[Result] | AsyncIterable[Result]


@dataclass(slots=True)
class Many(Generic[Result_co]):
    """Results for items: a flow that takes the items and emits the results, in order.

    Attributes:
        items: What the caller gave.
        flow: Takes and emits.
    """

    items: Items[Any]
    flow: Flow[None]


@dataclass(slots=True)
class Stream(Generic[Result_co]):
    """Answers over one stream, each as soon as it is there.

    Attributes:
        method: The call's name among `Methods`.
        requests: What the caller gave; None where `message` is the only request.
        message: Makes a request's bytes; of None where there are no `requests`.
        convert: Makes a result of an answer; raises where the answer is an error.
        seconds: How long all of it may take.
        metadata: Sent with it.
    """

    method: str
    requests: Items[Any] | None
    message: Callable[[Any], Flow[bytes]]
    convert: Callable[[Any], Result_co]
    seconds: float
    metadata: Pairs
