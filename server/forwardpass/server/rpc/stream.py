"""One stream of requests, answered in order, and a request of it as a call of its own.

Up to `IN_FLIGHT` requests of a stream are held at a time; the next is read when one of them has
been answered, so a caller that sends faster than the models run, or does not read, is held back.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, NoReturn, TypeVar

from forwardpass.server.errors import InvalidInput
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.scheduling.admission import RETRY_AFTER
from forwardpass.server.transport.call import Call, OnEnd, Receiver, Ts
from forwardpass.server.transport.completion import Ending
from forwardpass.v1.inference_service_pb2 import Error
from forwardpass.wire import Failure, Reason
from forwardpass.wire.fields import length_delimited

IN_FLIGHT = 8
Item = TypeVar("Item")
# The fields of PredictStreamResponse and EmbedStreamResponse.
_RESPONSE, _ERROR = 1, 2
_OK = 0


class StreamedCall(Call):
    """One request of a stream, which its handler answers as if it were a call of its own."""

    def __init__(self, stream: Call, ended: Callable[[], None]) -> None:
        super().__init__(stream.method, stream.deadline)
        self.answer: bytes | None = None
        self._stream = stream
        self._ended = ended
        self._ending = Ending()

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        return self._stream.metadata

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        return self._stream.peer

    @property
    def request_id(self) -> str:
        """See `Call.request_id`: the stream's."""
        return self._stream.request_id

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        self._end(_OK, self.wrap(message))

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        self._end(failure.code, self.tell(failure))

    def wrap(self, message: bytes) -> bytes:
        """Returns the message of the stream that holds an answer."""
        return length_delimited(_RESPONSE, message)

    def tell(self, failure: Failure) -> bytes:
        """Returns the message of the stream that tells what was wrong with the request."""
        error = Error(code=failure.code, reason=failure.reason, message=failure.message)
        return length_delimited(_ERROR, error.SerializeToString())

    def abandon(self, code: int) -> None:
        """Ends the request because its stream has ended."""
        self._end(code, b"")

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        self._stream.resume(self.guard, step, *args)

    def offload(self, step: Callable[[], None]) -> None:
        """See `Call.offload`."""
        self._stream.offload(lambda: self.guard(step))

    def on_end(self, callback: OnEnd) -> None:
        """See `Call.on_end`."""
        self._ending.on_end(self, callback)

    def send(self, message: bytes) -> NoReturn:
        """Has no use: one request has one answer."""
        raise NotImplementedError

    def finish(self) -> NoReturn:
        """Has no use: one request has one answer."""
        raise NotImplementedError

    def read(self) -> NoReturn:
        """Has no use: the request is there."""
        raise NotImplementedError

    def _end(self, code: int, answer: bytes) -> None:
        callbacks = self._ending.begin(code)
        if callbacks is None:
            return
        self.answer = answer
        for callback in callbacks:
            callback(self, code)
        self._ended()


class Stream(ABC, Generic[Item]):
    """The requests of one stream: those that wait, and those that are worked on, in order."""

    def __init__(self, call: Call) -> None:
        self._call = call
        # Reentrant: a request may be answered while it is being begun.
        self._lock = threading.RLock()
        self._waiting: deque[Item | InvalidInput] = deque()
        self._begun: deque[StreamedCall] = deque()
        self._half_closed = False
        self._draining = False

    def open(self, readiness: Readiness) -> Receiver:
        """Begins to read, and returns what takes the messages."""

        def look() -> None:
            if readiness.draining:
                self._call.resume(self._drain)

        forget = readiness.watch(look)
        self._call.on_end(lambda _, __: forget())
        self._call.on_end(self._abandon)
        for _ in range(IN_FLIGHT):
            self._call.read()
        return self._receive

    @abstractmethod
    def parse(self, message: bytes) -> Item | InvalidInput:
        """Returns the request in a message, or what is wrong with it."""

    @abstractmethod
    def begin(self, call: StreamedCall, request: Item) -> None:
        """Begins to answer one request."""

    def must_be_alone(self, request: Item) -> bool:  # noqa: ARG002  # none, but for those with states
        """Whether a request must wait for those before it."""
        return False

    def new_call(self, ended: Callable[[], None], request: Item | InvalidInput) -> StreamedCall:  # noqa: ARG002  # what it says is no matter
        """Returns the call that a request is answered by."""
        return StreamedCall(self._call, ended)

    def _receive(self, message: bytes | None) -> None:
        with self._lock:
            if message is None:
                self._half_closed = True
            else:
                self._waiting.append(self.parse(message))
            self._advance()

    def _advance(self) -> None:
        """Begins what may begin, and ends the stream when nothing is left."""
        while self._waiting and not self._draining:
            request = self._waiting[0]
            if isinstance(request, InvalidInput):
                self._waiting.popleft()
                self._add(request).fail(request.failure)
                continue
            if self._begun and self.must_be_alone(request):
                break
            self._waiting.popleft()
            call = self._add(request)
            call.guard(self.begin, call, request)
        if self._begun:
            return
        if self._half_closed and not self._waiting:
            self._call.finish()
        elif self._draining:
            self._call.fail(
                Failure(
                    Reason.SHUTTING_DOWN,
                    "the server is shutting down; send what is unanswered to another",
                    retry_after=RETRY_AFTER,
                )
            )

    def _add(self, request: Item | InvalidInput) -> StreamedCall:
        """Returns the next request's call, whose answer comes after those before it."""
        call = self.new_call(self._flush, request)
        self._begun.append(call)
        return call

    def _flush(self) -> None:
        """Sends the answers that are next in order."""
        with self._lock:
            while self._begun and self._begun[0].answer is not None:
                answer = self._begun.popleft().answer
                if answer:
                    self._call.send(answer)
                    self._call.read()
            self._advance()

    def _drain(self) -> None:
        with self._lock:
            self._draining = True
            self._advance()

    def _abandon(self, _: Call, code: int) -> None:
        """Lets go of what is unanswered when the stream has ended."""
        with self._lock:
            self._waiting.clear()
            left = list(self._begun)
        for call in left:
            call.abandon(code)
