"""PredictStream and EmbedStream: many requests on one stream, answered in order.

Up to `IN_FLIGHT` requests of a stream are held at a time; the next is read when one of them has
been answered, so a caller that sends faster than the models run, or does not read, is held back.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from google.protobuf.message import Message

from forwardpass.server.errors import InvalidInput
from forwardpass.server.health import Readiness
from forwardpass.server.rpc.inference import EMBED_LIMIT, PREDICT_LIMIT, Inference
from forwardpass.server.rpc.limits import Limit
from forwardpass.server.rpc.memory import Memory
from forwardpass.server.rpc.parse import parse
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.scheduling.admission import RETRY_AFTER
from forwardpass.server.transport.call import Call, Receiver
from forwardpass.v1.inference_service_pb2 import EmbedStreamRequest, Error, PredictStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Failure, Reason
from forwardpass.wire.fields import length_delimited

IN_FLIGHT = 8
Request = TypeVar("Request", bound=Message)
# The fields of PredictStreamResponse and EmbedStreamResponse.
_RESPONSE, _ERROR = 1, 2
_OK = 0


class Streams:
    """Answers PredictStream and EmbedStream.

    Args:
        inference: Answers each request of a stream.
        repository: Tells which models have states, and how much each takes.
        readiness: Tells when to end streams.
    """

    def __init__(self, inference: Inference, repository: Repository, readiness: Readiness) -> None:
        self._inference = inference
        self._repository = repository
        self._readiness = readiness

    def predict(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers a stream of PredictStreamRequest."""
        return PredictStream(call, self._inference, self._repository).open(self._readiness)

    def embed(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers a stream of EmbedStreamRequest."""
        return EmbedStream(call, self._inference, self._repository).open(self._readiness)


class StreamedCall(Call):
    """One request of a stream, which its handler answers as if it were a call of its own."""

    def __init__(self, stream: Call, ended: Callable[[], None]) -> None:
        super().__init__(stream.method, stream.deadline)
        self.answer: bytes | None = None
        self._stream = stream
        self._ended = ended
        self._end_callbacks: list[Callable[[int], None]] = []
        self._lock = threading.Lock()
        self._code: int | None = None

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
        self._end(_OK, length_delimited(_RESPONSE, message))

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        error = Error(code=failure.code, reason=failure.reason, message=failure.message)
        self._end(failure.code, length_delimited(_ERROR, error.SerializeToString()))

    def abandon(self, code: int) -> None:
        """Ends the request because its stream has ended."""
        self._end(code, b"")

    def resume(self, step: Callable[[], None]) -> None:
        """See `Call.resume`."""
        self._stream.resume(lambda: self.guard(step))

    def offload(self, step: Callable[[], None]) -> None:
        """See `Call.offload`."""
        self._stream.offload(lambda: self.guard(step))

    def on_end(self, callback: Callable[[int], None]) -> None:
        """See `Call.on_end`."""
        with self._lock:
            if self._code is None:
                self._end_callbacks.append(callback)
                return
        callback(self._code)

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
        with self._lock:
            if self._code is not None:
                return
            self._code = code
            self.answer = answer
            callbacks, self._end_callbacks = self._end_callbacks, []
        for callback in callbacks:
            callback(code)
        self._ended()


class _Stream(ABC, Generic[Request]):
    """The requests of one stream: those that wait, and those that are worked on, in order."""

    def __init__(
        self, call: Call, kind: type[Request], limit: Limit[Any], repository: Repository
    ) -> None:
        self._call = call
        self._kind = kind
        self._limit = limit
        self._repository = repository
        # Reentrant: a request may be answered while it is being begun.
        self._lock = threading.RLock()
        self._waiting: deque[Request | InvalidInput] = deque()
        self._begun: deque[StreamedCall] = deque()
        self._half_closed = False
        self._draining = False
        self._model = ModelReference()

    def open(self, readiness: Readiness) -> Receiver:
        """Begins to read, and returns what takes the messages."""

        def look() -> None:
            if readiness.draining:
                self._call.resume(self._drain)

        forget = readiness.watch(look)
        self._call.on_end(lambda _: forget())
        self._call.on_end(self._abandon)
        for _ in range(IN_FLIGHT):
            self._call.read()
        return self._receive

    @abstractmethod
    def _begin(self, call: StreamedCall, request: Request) -> None:
        """Begins to answer one request."""

    @abstractmethod
    def _reference(self, request: Request) -> ModelReference:
        """Returns the part of a request that names its model."""

    @abstractmethod
    def _must_be_alone(self, request: Request) -> bool:
        """Whether a request must wait for those before it."""

    def _receive(self, message: bytes | None) -> None:
        with self._lock:
            if message is None:
                self._half_closed = True
            else:
                self._waiting.append(self._parse(message))
            self._advance()

    def _parse(self, message: bytes) -> Request | InvalidInput:
        """Returns the request, with the model of the one before where it names none."""
        try:
            self._limit.check_streamed(self._repository, message, self._model)
            request = parse(self._kind, message)
        except InvalidInput as error:
            return error
        model = self._reference(request)
        if model.name:
            self._model.CopyFrom(model)
        else:
            model.CopyFrom(self._model)
        return request

    def _advance(self) -> None:
        """Begins what may begin, and ends the stream when nothing is left."""
        while self._waiting and not self._draining:
            request = self._waiting[0]
            if isinstance(request, InvalidInput):
                self._waiting.popleft()
                self._add().fail(request.failure)
                continue
            if self._begun and self._must_be_alone(request):
                break
            self._waiting.popleft()
            call = self._add()
            call.guard(partial(self._begin, call, request))
        if self._begun:
            return
        if self._draining:
            self._call.fail(
                Failure(
                    Reason.SHUTTING_DOWN,
                    "the server is shutting down; send what is unanswered to another",
                    retry_after=RETRY_AFTER,
                )
            )
        elif self._half_closed and not self._waiting:
            self._call.finish()

    def _add(self) -> StreamedCall:
        """Returns the next request's call, whose answer comes after those before it."""
        call = StreamedCall(self._call, self._flush)
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

    def _abandon(self, code: int) -> None:
        """Lets go of what is unanswered when the stream has ended."""
        with self._lock:
            self._waiting.clear()
            left = list(self._begun)
        for call in left:
            call.abandon(code)


class PredictStream(_Stream[PredictStreamRequest]):
    """Requests of a PredictStream, with the state of a step model between them."""

    def __init__(self, call: Call, inference: Inference, repository: Repository) -> None:
        super().__init__(call, PredictStreamRequest, PREDICT_LIMIT, repository)
        self._inference = inference
        self._memory = Memory()

    def _reference(self, request: PredictStreamRequest) -> ModelReference:
        return request.request.model

    def _must_be_alone(self, request: PredictStreamRequest) -> bool:
        # The state after one request is the state before the next.
        model = self._repository.models.get(request.request.model.name)
        version = model and model.newest_ready
        return bool(version and version.loaded and version.loaded.signature.states)

    def _begin(self, call: StreamedCall, request: PredictStreamRequest) -> None:
        if request.reset_state:
            self._memory.forget()
        self._inference.answer_predict(call, request.request, self._memory)


class EmbedStream(_Stream[EmbedStreamRequest]):
    """Requests of an EmbedStream."""

    def __init__(self, call: Call, inference: Inference, repository: Repository) -> None:
        super().__init__(call, EmbedStreamRequest, EMBED_LIMIT, repository)
        self._inference = inference

    def _reference(self, request: EmbedStreamRequest) -> ModelReference:
        return request.request.model

    def _must_be_alone(self, request: EmbedStreamRequest) -> bool:  # noqa: ARG002  # none has states
        return False

    def _begin(self, call: StreamedCall, request: EmbedStreamRequest) -> None:
        self._inference.answer_embed(call, request.request)
