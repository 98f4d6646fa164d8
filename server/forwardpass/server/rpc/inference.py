"""Predict and Embed of InferenceService; `generation` has Generate."""

from collections.abc import Callable

import numpy as np

from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.rpc import answers
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.layouts import IMAGES, INPUTS, TEXTS
from forwardpass.server.rpc.limits import Limit
from forwardpass.server.rpc.memory import Memory
from forwardpass.server.rpc.parse import parse
from forwardpass.server.runtime.loaded import Loaded
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.runtime.signature import Signature
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    PredictRequest,
    PredictResponse,
)
from forwardpass.wire import Array, Reason, to_tensor

PREDICT_LIMIT = Limit(PredictRequest, INPUTS, (IMAGES, TEXTS), Signature.max_bytes)
EMBED_LIMIT = Limit(EmbedRequest, INPUTS, (IMAGES, TEXTS), Signature.max_bytes)


class Inference:
    """Answers Predict and Embed.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader

    def predict(self, call: Call, message: bytes) -> None:
        """Answers a PredictRequest."""
        PREDICT_LIMIT.check(self._repository, message)
        self.answer_predict(call, parse(PredictRequest, message))

    def embed(self, call: Call, message: bytes) -> None:
        """Answers an EmbedRequest."""
        EMBED_LIMIT.check(self._repository, message)
        self.answer_embed(call, parse(EmbedRequest, message))

    def answer_predict(
        self, call: Call, request: PredictRequest, memory: Memory | None = None
    ) -> None:
        """Answers a request.

        Args:
            call: Who asks.
            request: What is asked.
            memory: The state of a step model along a stream; None where the caller keeps it.
        """
        loaded = self._repository.find(request.model)
        execution = Execution(call, loaded, timed=request.timing)
        outputs = loaded.signature.select_outputs(request.outputs)
        ranked = answers.check_top_k(loaded, request.top_k)
        wanted = outputs if ranked is None else tuple(dict.fromkeys((*outputs, ranked.name)))
        if memory is not None:
            wanted = memory.add_outputs(loaded.signature, wanted)
        as_png = answers.image_outputs(loaded, outputs) if request.png else []

        def encode(answer: Answer) -> PredictResponse:
            response = PredictResponse()
            if ranked is not None:
                scores = answer.outputs[ranked.name]
                response.classifications.extend(
                    answers.classify(scores, ranked, loaded.labels, request.top_k)
                )
            for name in outputs:
                if name in as_png:
                    response.images.extend(answers.pictures(answer.outputs[name]))
                else:
                    response.outputs[name].CopyFrom(to_tensor(answer.outputs[name]))
            return response

        def answered(answer: Answer) -> None:
            if memory is not None:
                memory.keep(loaded.signature, answer.outputs)
            execution.reply(answer, lambda: encode(answer), takes_long=bool(as_png))

        def run(inputs: dict[str, Array]) -> None:
            if memory is not None:
                memory.recall(loaded.signature, inputs)
            execution.run(inputs, loaded.signature.check(inputs), wanted, answered)

        self._read(call, loaded, request, run)

    def answer_embed(self, call: Call, request: EmbedRequest) -> None:
        """Answers a request."""
        loaded = self._repository.find(request.model)
        execution = Execution(call, loaded, timed=request.timing)
        output = _embedding_output(loaded, request.output)

        def encode(answer: Answer) -> EmbedResponse:
            vectors = answer.outputs[output].astype(np.float32, copy=False)
            if request.normalize:
                vectors = answers.normalized(vectors)
            if request.half_precision:
                vectors = vectors.astype(np.float16)
            return EmbedResponse(
                embeddings=to_tensor(vectors), space_id=loaded.embedding_spaces[output]
            )

        def run(inputs: dict[str, Array]) -> None:
            execution.run(
                inputs,
                loaded.signature.check(inputs),
                (output,),
                lambda answer: execution.reply(answer, lambda: encode(answer)),
            )

        self._read(call, loaded, request, run)

    def _read(
        self,
        call: Call,
        loaded: Loaded,
        request: PredictRequest | EmbedRequest,
        run: Callable[[dict[str, Array]], None],
    ) -> None:
        """Calls `run` with the request's arrays, on the call's own thread."""

        def read() -> dict[str, Array]:
            return self._reader.read(loaded, request.inputs, request.images, request.texts)

        def decode() -> None:
            inputs = read()
            call.resume(lambda: run(inputs))

        if request.images:
            call.offload(decode)
        else:
            run(read())


def _embedding_output(loaded: Loaded, name: str) -> str:
    spaces = loaded.embedding_spaces
    if not spaces:
        raise CallError(
            Reason.TASK_UNSUPPORTED,
            f"model {quote(loaded.name)} has no embedding output; "
            f"it answers {', '.join(loaded.calls)}",
            field="model",
        )
    if not name:
        return next(iter(spaces))
    if name not in spaces:
        raise InvalidInput(
            f"no embedding output {quote(name)}{nearest(name, spaces)}; "
            f"the model has {', '.join(map(quote, spaces))}",
            field="output",
        )
    return name
