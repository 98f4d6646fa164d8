"""Many requests on one stream, answered in order: PredictStream and EmbedStream."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from forwardpass.server.errors import InvalidInput
from forwardpass.server.native.limits import Limit
from forwardpass.server.native.predict import (
    CONTENT,
    EMBED_LIMIT,
    PREDICT_LIMIT,
    Inference,
    Learn,
    learn_embeddings,
    learn_nothing,
    learn_predictions,
)
from forwardpass.server.native.state import ModelState
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.parse import Hollow, parse_hollow
from forwardpass.server.rpc.request_templates import RequestTemplates
from forwardpass.server.rpc.stream import Stream, StreamedCall
from forwardpass.server.transport.call import Call, Receiver
from forwardpass.v1.inference_service_pb2 import EmbedStreamRequest, PredictStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference

Request = TypeVar("Request", PredictStreamRequest, EmbedStreamRequest)
# Where a request of a stream has the elements of its input.
_CONTENT = (EmbedStreamRequest.REQUEST_FIELD_NUMBER, *CONTENT)
assert PredictStreamRequest.REQUEST_FIELD_NUMBER == EmbedStreamRequest.REQUEST_FIELD_NUMBER


class Streams:
    """Answers PredictStream and EmbedStream.

    Args:
        inference: Answers each request of a stream.
        repository: Tells which models have states, and how much each takes.
        reader: Makes arrays of requests.
        readiness: Tells when to end streams.
    """

    def __init__(
        self,
        inference: Inference,
        repository: Repository,
        reader: InputReader,
        readiness: Readiness,
    ) -> None:
        self._inference = inference
        self._repository = repository
        self._readiness = readiness
        self._predictions = RequestTemplates(repository, reader)
        self._embeddings = RequestTemplates(repository, reader)

    def predict(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers a stream of PredictStreamRequest."""
        stream = PredictStream(call, self._inference, self._repository, self._predictions)
        return stream.open(self._readiness)

    def embed(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers a stream of EmbedStreamRequest."""
        stream = EmbedStream(call, self._inference, self._repository, self._embeddings)
        return stream.open(self._readiness)


@dataclass(slots=True)
class _Parsed(Generic[Request]):
    """A request of a stream.

    Attributes:
        wrapper: The message of the stream.
        asked: The request in it.
        message: The bytes that it came in.
        epoch: The repository's, from before its model was looked up.
        model: The model as it names it; None where it means that of the one before.
    """

    wrapper: Request
    asked: Hollow[Any]
    message: bytes
    epoch: int
    model: ModelReference | None = None


class _NativeStream(Stream[bytes | _Parsed[Request]], Generic[Request]):
    """Requests that mean the model of the one before where they name none.

    Those of a known form are not parsed: they name their model, which has no states.
    """

    def __init__(
        self,
        call: Call,
        kind: type[Request],
        limit: Limit[Any],
        repository: Repository,
        forms: RequestTemplates,
    ) -> None:
        super().__init__(call)
        self._kind: type[Request] = kind
        self._limit = limit
        self._repository = repository
        self._forms = forms
        self._model = ModelReference()

    @abstractmethod
    def answer(self, call: StreamedCall, request: _Parsed[Request]) -> None:
        """Answers a request that has been parsed."""

    def parse(self, message: bytes) -> bytes | _Parsed[Request] | InvalidInput:
        """See `Stream.parse`."""
        form = self._forms.find(message)
        if form is not None:
            self._model = form.terms.model
            return message
        try:
            request = self._parse(message)
        except InvalidInput as error:
            return error
        if request.model is not None:
            self._model = request.model
        else:
            request.asked.message.model.CopyFrom(self._model)
        return request

    def begin(self, call: StreamedCall, request: bytes | _Parsed[Request]) -> None:
        """See `Stream.begin`."""
        if isinstance(request, bytes):
            if self._forms.take(call, request):
                return
            # Models have changed since it was found, so that all forms were forgotten.
            request = self._parse(request)
        self.answer(call, request)

    def _parse(self, message: bytes) -> _Parsed[Request]:
        self._limit.check_streamed(self._repository, message, self._model)
        epoch = self._repository.epoch
        whole = parse_hollow(self._kind, message, _CONTENT)
        asked = Hollow(whole.message.request, whole.content, whole.begin)
        request = _Parsed(whole.message, asked, message, epoch)
        named = asked.message.model
        if named.name:
            # Not its own part, which would keep the whole of it.
            request.model = ModelReference()
            request.model.CopyFrom(named)
        return request


class PredictStream(_NativeStream[PredictStreamRequest]):
    """Requests of a PredictStream, with the state of a step model between them."""

    def __init__(
        self, call: Call, inference: Inference, repository: Repository, forms: RequestTemplates
    ) -> None:
        super().__init__(call, PredictStreamRequest, PREDICT_LIMIT, repository, forms)
        self._inference = inference
        self._memory = ModelState()

    def answer(self, call: StreamedCall, request: _Parsed[PredictStreamRequest]) -> None:
        """See `_NativeStream.answer`."""
        asked = request.asked
        learn = learn_predictions(self._forms, request.message, asked, request.epoch)
        if request.wrapper.reset_state:
            self._memory.forget()
            learn = learn_nothing
        self._inference.answer_predict(call, asked, self._memory, _named(request.model, learn))

    def must_be_alone(self, request: bytes | _Parsed[PredictStreamRequest]) -> bool:
        """See `Stream.must_be_alone`."""
        if isinstance(request, bytes):
            return False
        # The state after one request is the state before the next, or is forgotten.
        if request.wrapper.reset_state:
            return True
        model = self._repository.models.get(request.asked.message.model.name)
        version = model and model.newest_ready
        return bool(version and version.loaded and version.loaded.signature.states)


class EmbedStream(_NativeStream[EmbedStreamRequest]):
    """Requests of an EmbedStream."""

    def __init__(
        self, call: Call, inference: Inference, repository: Repository, forms: RequestTemplates
    ) -> None:
        super().__init__(call, EmbedStreamRequest, EMBED_LIMIT, repository, forms)
        self._inference = inference

    def answer(self, call: StreamedCall, request: _Parsed[EmbedStreamRequest]) -> None:
        """See `_NativeStream.answer`."""
        learn = learn_embeddings(self._forms, request.message, request.asked, request.epoch)
        self._inference.answer_embed(call, request.asked, _named(request.model, learn))


def _named(model: ModelReference | None, learn: Learn) -> Learn:
    """Returns what learns a request with the model that it names; nothing where it names none."""
    if model is None:
        return learn_nothing
    return lambda terms: learn(replace(terms, model=model))
