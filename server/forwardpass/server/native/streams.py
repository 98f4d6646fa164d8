"""Many requests on one stream, answered in order: PredictStream and EmbedStream."""

from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from forwardpass.server.native.embed import Embed
from forwardpass.server.native.predict import Predict
from forwardpass.server.native.state import ModelState
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received, receive
from forwardpass.server.rpc.request_templates import RequestTemplate, RequestTemplates
from forwardpass.server.rpc.schema import EMBED_STREAM, PREDICT_STREAM, Schema
from forwardpass.server.rpc.stream import Stream, StreamedCall
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.v1.inference_service_pb2 import EmbedStreamRequest, PredictStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference

Request = TypeVar("Request", PredictStreamRequest, EmbedStreamRequest)


class Streams:
    """Answers PredictStream and EmbedStream.

    Args:
        predict: Answers each request of a PredictStream.
        embed: Answers each request of an EmbedStream.
        repository: Tells which models have states.
        reader: Knows what is refused.
        readiness: Tells when to end streams.
        admission: Makes room for each request.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        predict: Predict,
        embed: Embed,
        repository: Repository,
        reader: InputReader,
        readiness: Readiness,
        admission: Admission,
    ) -> None:
        self._predict = predict
        self._embed = embed
        self._repository = repository
        self._readiness = readiness
        self._admission = admission
        self._predictions = RequestTemplates(repository, reader)
        self._embeddings = RequestTemplates(repository, reader)

    def predict(self, call: StreamCall) -> Coroutine[Any, Any, None]:
        """Answers a stream of PredictStreamRequest."""
        return PredictStream(
            call,
            self._readiness,
            self._admission,
            self._repository,
            self._predictions,
            self._predict,
        ).answer()

    def embed(self, call: StreamCall) -> Coroutine[Any, Any, None]:
        """Answers a stream of EmbedStreamRequest."""
        return EmbedStream(
            call,
            self._readiness,
            self._admission,
            self._repository,
            self._embeddings,
            self._embed,
        ).answer()


@dataclass(frozen=True, slots=True)
class _Parsed(Generic[Request]):
    """A request of a stream.

    Attributes:
        received: The message of the stream.
        names_model: Whether it names its model, and does not mean that of the one before it.
    """

    received: Received[Request]
    names_model: bool


class _NativeStream(Stream[RequestTemplate | _Parsed[Request]], Generic[Request]):
    """Requests that mean the model of the one before where they name none.

    Those of a known form are not parsed: they name their model, which has no states.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        call: StreamCall,
        readiness: Readiness,
        admission: Admission,
        repository: Repository,
        schema: Schema[Request],
        templates: RequestTemplates,
    ) -> None:
        super().__init__(call, readiness, admission, repository)
        self._schema: Schema[Request] = schema
        self._templates = templates
        self._model = ModelReference()

    @abstractmethod
    def answer_one(
        self,
        call: StreamedCall,
        received: Received[Request],
        templates: RequestTemplates | None,
    ) -> None:
        """Begins to answer a request that has been parsed.

        Args:
            call: Who asks.
            received: What it came in.
            templates: Where it may be remembered; None where it may not.
        """

    def parse(self, message: bytes) -> RequestTemplate | _Parsed[Request]:
        """See `Stream.parse`."""
        template = self._templates.find(message)
        if template is not None:
            if template.model is not self._model:
                self._model = template.model
                self.hold(template.model)
            return template
        return self._parse(message)

    def begin(
        self, call: StreamedCall, message: bytes, request: RequestTemplate | _Parsed[Request]
    ) -> None:
        """See `Stream.begin`."""
        if isinstance(request, RequestTemplate):
            if self._templates.begin(call, message, request):
                return
            # Its id is no text, or its model takes no more.
            request = self._parse(message)
        self.answer_one(call, request.received, self._templates if request.names_model else None)

    def _parse(self, message: bytes) -> _Parsed[Request]:
        received = receive(self._schema, message)
        model = received.head.request.model
        names_model = bool(model.name)
        if names_model:
            # Copied: a submessage keeps its parent alive.
            self._model = ModelReference()
            self._model.CopyFrom(model)
        else:
            model.CopyFrom(self._model)
        return _Parsed(received, names_model)


class PredictStream(_NativeStream[PredictStreamRequest]):
    """Requests of a PredictStream, with the state of a step model between them."""

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        call: StreamCall,
        readiness: Readiness,
        admission: Admission,
        repository: Repository,
        templates: RequestTemplates,
        predict: Predict,
    ) -> None:
        super().__init__(call, readiness, admission, repository, PREDICT_STREAM, templates)
        self._predict = predict
        self._state = ModelState()

    def answer_one(
        self,
        call: StreamedCall,
        received: Received[PredictStreamRequest],
        templates: RequestTemplates | None,
    ) -> None:
        """See `_NativeStream.answer_one`."""
        if received.head.reset_state:
            self._state.forget()
            templates = None
        request = received.head.request
        call.drive(self._predict.answer(call, received, request, templates, self._state))

    def must_be_alone(self, request: RequestTemplate | _Parsed[PredictStreamRequest]) -> bool:
        """See `Stream.must_be_alone`."""
        if isinstance(request, RequestTemplate):
            return False
        head = request.received.head
        # The state after one request is the state before the next, or is forgotten.
        if head.reset_state:
            return True
        model = self._repository.models.get(head.request.model.name)
        version = model and model.newest_ready
        return bool(version and version.loaded and version.loaded.signature.states)


class EmbedStream(_NativeStream[EmbedStreamRequest]):
    """Requests of an EmbedStream."""

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        call: StreamCall,
        readiness: Readiness,
        admission: Admission,
        repository: Repository,
        templates: RequestTemplates,
        embed: Embed,
    ) -> None:
        super().__init__(call, readiness, admission, repository, EMBED_STREAM, templates)
        self._embed = embed

    def answer_one(
        self,
        call: StreamedCall,
        received: Received[EmbedStreamRequest],
        templates: RequestTemplates | None,
    ) -> None:
        """See `_NativeStream.answer_one`."""
        request = received.head.request
        call.drive(self._embed.answer(call, received, request, templates))
