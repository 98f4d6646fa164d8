"""Predict of InferenceService."""

from functools import partial

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.outputs import (
    check_top_k,
    class_labels,
    classify,
    image_outputs,
    pictures,
)
from forwardpass.server.native.state import ModelState
from forwardpass.server.native.templates import encode_predictions
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received, receive
from forwardpass.server.rpc.request_templates import Plan, RequestTemplates
from forwardpass.server.rpc.schema import PREDICT
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
)
from forwardpass.wire import to_tensor


class Predict:
    """Answers Predict.

    Attributes:
        templates: Of its requests.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self.templates = RequestTemplates(repository, reader)

    async def predict(self, call: Call, message: bytes) -> bytes:
        """Answers a PredictRequest."""
        received = receive(PREDICT, message)
        return await self.answer(call, received, received.head, self.templates)

    async def answer(
        self,
        call: Call,
        received: Received[PredictRequest] | Received[PredictStreamRequest],
        request: PredictRequest,
        templates: RequestTemplates | None,
        state: ModelState | None = None,
    ) -> bytes:
        """Returns the answer to a request, serialised.

        Args:
            call: Who asks.
            received: What the request came in.
            request: The request.
            templates: Where it may be remembered; None where it may not.
            state: The state of a step model along a stream; None where the caller keeps it.
        """
        with Execution(call, self._repository, request.model, timed=request.timing) as execution:
            execution.check_room()
            loaded = execution.loaded
            outputs = loaded.signature.select_outputs(request.outputs)
            ranked = check_top_k(loaded, request.top_k)
            wanted = outputs if ranked is None else tuple(dict.fromkeys((*outputs, ranked.name)))
            if state is not None:
                wanted = state.add_outputs(loaded.signature, wanted)
            inputs = await self._reader.read(call, loaded, received, request)
            if state is not None:
                state.recall(loaded.signature, inputs)
            rows = loaded.signature.check(inputs)
            if templates is not None:
                plan = Plan(
                    loaded,
                    rows,
                    wanted,
                    loaded.config.first_priority,
                    loaded.config.timeout(None),
                )
                is_plain = not (request.top_k or request.png or request.timing)
                encode = partial(encode_predictions, plan) if is_plain else None
                templates.remember(received, request.model, inputs, plan, encode, execution.epoch)
            answer = await execution.run(inputs, rows, wanted)
            if state is not None:
                state.keep(loaded.signature, answer.outputs)
            as_png = image_outputs(loaded, outputs) if request.png else []
            if as_png:
                # They wait for a thread that encodes them.
                self._reader.hold(call, sum(answer.outputs[name].nbytes for name in as_png))

            def encoded() -> bytes:
                response = execution.complete(
                    answer,
                    lambda: _response(call, loaded, request, answer, outputs, ranked, as_png),
                )
                return response.SerializeToString()

            return await call.offload(encoded) if as_png else encoded()


def _response(  # noqa: PLR0917  # each is one thing
    call: Call,
    loaded: Loaded,
    request: PredictRequest,
    answer: Answer,
    outputs: tuple[str, ...],
    ranked: TensorSpec | None,
    as_png: list[str],
) -> PredictResponse:
    """Returns the outputs asked for.

    Args:
        call: Who asks.
        loaded: The model.
        request: What was asked for.
        answer: What the model gave.
        outputs: The names of the outputs wanted.
        ranked: The output that classes are read from; None where none are asked for.
        as_png: The outputs to send as PNG.
    """
    response = PredictResponse()
    given = answer.outputs
    if ranked is not None:
        response.classifications.extend(
            classify(given[ranked.name], ranked, class_labels(loaded), request.top_k)
        )
    for name in outputs:
        if name in as_png:
            response.images.extend(pictures(given[name], call))
        else:
            response.outputs[name].CopyFrom(to_tensor(given[name]))
    return response
