"""ModelStreamInfer: many requests on one stream, answered in order.

A request that fails is answered with its error, and the stream goes on.
"""

from collections.abc import Callable

from forwardpass.server.errors import InvalidInput
from forwardpass.server.open_inference.infer import Inference
from forwardpass.server.open_inference.request import receive
from forwardpass.server.open_inference.response import stream_answer, stream_error
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.rpc.stream import Stream, StreamedCall
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call, Receiver
from forwardpass.wire import Failure


class Streaming:
    """Answers ModelStreamInfer.

    Args:
        inference: Answers each request of a stream.
        admission: Admits each request of a stream like a call.
        readiness: Tells when streams have to end.
    """

    def __init__(self, inference: Inference, admission: Admission, readiness: Readiness) -> None:
        self._inference = inference
        self._admission = admission
        self._readiness = readiness

    def infer(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers each ModelInferRequest of a stream."""
        return _ModelStream(call, self._inference, self._admission).open(self._readiness)


class _ModelCall(StreamedCall):
    """One ModelInferRequest of a stream."""

    def __init__(self, stream: Call, ended: Callable[[], None], request: bytes) -> None:
        super().__init__(stream, ended)
        self._request = request

    def wrap(self, message: bytes) -> bytes:
        """See `StreamedCall.wrap`."""
        return stream_answer(message)

    def tell(self, failure: Failure) -> bytes:
        """See `StreamedCall.tell`: it names the request by its id, where that can be read."""
        try:
            request_id = receive(self._request).head.id
        except InvalidInput:
            request_id = ""
        return stream_error(failure.message, request_id)


class _ModelStream(Stream[bytes]):
    """Requests of a ModelStreamInfer."""

    def __init__(self, call: Call, inference: Inference, admission: Admission) -> None:
        super().__init__(call)
        self._inference = inference
        self._admission = admission

    def parse(self, message: bytes) -> bytes:
        """See `Stream.parse`: that comes after the request is admitted."""
        return message

    def begin(self, call: StreamedCall, request: bytes) -> None:
        """See `Stream.begin`."""
        call.size = len(request)
        self._admission.enter(call.size)
        call.on_end(lambda call, _: self._admission.leave(call.size))
        self._inference.infer(call, request)

    def new_call(self, ended: Callable[[], None], request: bytes | InvalidInput) -> StreamedCall:
        """See `Stream.new_call`."""
        assert isinstance(request, bytes)
        return _ModelCall(self._call, ended, request)
