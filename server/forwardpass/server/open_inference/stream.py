"""ModelStreamInfer: many requests on one stream, answered in order.

A request that fails is answered with its error, and the stream goes on.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from forwardpass.server.errors import InvalidInput
from forwardpass.server.open_inference.infer import Infer
from forwardpass.server.open_inference.response import stream_answer, stream_error
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.receive import receive
from forwardpass.server.rpc.request_templates import RequestTemplate
from forwardpass.server.rpc.schema import INFER
from forwardpass.server.rpc.stream import Stream, StreamedCall
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Failure


class InferStreams:
    """Answers ModelStreamInfer.

    Args:
        infer: Answers each request of a stream.
        admission: Makes room for each request.
        readiness: Tells when streams have to end.
        repository: Has versions that are named.
    """

    def __init__(
        self,
        infer: Infer,
        admission: Admission,
        readiness: Readiness,
        repository: Repository,
    ) -> None:
        self._infer = infer
        self._repository = repository
        self._admission = admission
        self._readiness = readiness

    def infer(self, call: StreamCall) -> Coroutine[Any, Any, None]:
        """Answers each ModelInferRequest of a stream."""
        return _InferStream(
            call, self._readiness, self._admission, self._repository, self._infer
        ).answer()


class _InferCall(StreamedCall):
    """One ModelInferRequest of a stream."""

    __slots__ = ("_message",)

    def __init__(
        self,
        stream: Call,
        answered: Callable[[], None],
        hold: Callable[[ModelReference], None],
        message: bytes,
    ) -> None:
        super().__init__(stream, answered, hold)
        self._message = message

    def wrap(self, message: bytes) -> bytes:
        """See `StreamedCall.wrap`."""
        return stream_answer(message)

    def tell(self, failure: Failure) -> bytes:
        """See `StreamedCall.tell`: it names the request by its id, where that can be read."""
        try:
            request_id = receive(INFER, self._message).head.id
        except InvalidInput:
            request_id = ""
        return stream_error(failure.message, request_id)


class _InferStream(Stream[RequestTemplate | None]):
    """Requests of a ModelStreamInfer; those of a known form are not parsed."""

    def __init__(
        self,
        call: StreamCall,
        readiness: Readiness,
        admission: Admission,
        repository: Repository,
        infer: Infer,
    ) -> None:
        super().__init__(call, readiness, admission, repository)
        self._infer = infer
        self._named: ModelReference | None = None

    def parse(self, message: bytes) -> RequestTemplate | None:
        """See `Stream.parse`: what has no template is parsed by the handler."""
        template = self._infer.templates.find(message)
        if template is not None and template.model is not self._named:
            self._named = template.model
            self.hold(template.model)
        return template

    def begin(self, call: StreamedCall, message: bytes, request: RequestTemplate | None) -> None:
        """See `Stream.begin`."""
        if request is None or not self._infer.templates.begin(call, message, request):
            call.drive(self._infer.infer(call, message))

    def new_call(self, message: bytes) -> StreamedCall:
        """See `Stream.new_call`."""
        return _InferCall(self._call, self._flush, self.hold, message)
