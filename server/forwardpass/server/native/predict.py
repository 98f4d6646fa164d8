"""Predict and Embed of InferenceService; `generation` has Generate."""

from collections.abc import Callable
from functools import partial

import numpy as np

from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native import outputs as outputs_of
from forwardpass.server.native.limits import Limit
from forwardpass.server.native.schema import IMAGES, INPUTS, TEXTS
from forwardpass.server.native.state import ModelState
from forwardpass.server.native.templates import encode_embeddings, encode_predictions
from forwardpass.server.onnx.signature import Signature
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.parse import Hollow, parse_hollow
from forwardpass.server.rpc.request_templates import Encode, Plan, RequestTemplates, Slots
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    PredictRequest,
    PredictResponse,
)
from forwardpass.v1.tensor_pb2 import Tensor
from forwardpass.wire import Array, Reason, to_tensor

_MAP_VALUE = 2
# Where a PredictRequest and an EmbedRequest have the elements of their input.
CONTENT = (PredictRequest.INPUTS_FIELD_NUMBER, _MAP_VALUE, Tensor.CONTENT_FIELD_NUMBER)
assert EmbedRequest.INPUTS_FIELD_NUMBER == PredictRequest.INPUTS_FIELD_NUMBER
PREDICT_LIMIT = Limit(PredictRequest, INPUTS, (IMAGES, TEXTS), Signature.max_bytes)
EMBED_LIMIT = Limit(EmbedRequest, INPUTS, (IMAGES, TEXTS), Signature.max_bytes)


# Is told what a request comes to once it is known to fit the model.
Learn = Callable[[Plan], None]


def learn_nothing(terms: Plan) -> None:
    """Keeps nothing of a request."""


class Inference:
    """Answers Predict and Embed.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader
        self._predictions = RequestTemplates(repository, reader)
        self._embeddings = RequestTemplates(repository, reader)

    def predict(self, call: Call, message: bytes) -> None:
        """Answers a PredictRequest."""
        if self._predictions.take(call, message):
            return
        PREDICT_LIMIT.check(self._repository, message)
        epoch = self._repository.epoch
        asked = parse_hollow(PredictRequest, message, CONTENT)
        learn = learn_predictions(self._predictions, message, asked, epoch)
        self.answer_predict(call, asked, learn=learn)

    def embed(self, call: Call, message: bytes) -> None:
        """Answers an EmbedRequest."""
        if self._embeddings.take(call, message):
            return
        EMBED_LIMIT.check(self._repository, message)
        epoch = self._repository.epoch
        asked = parse_hollow(EmbedRequest, message, CONTENT)
        self.answer_embed(call, asked, learn_embeddings(self._embeddings, message, asked, epoch))

    def answer_predict(
        self,
        call: Call,
        asked: Hollow[PredictRequest],
        memory: ModelState | None = None,
        learn: Learn = learn_nothing,
    ) -> None:
        """Answers a request.

        Args:
            call: Who asks.
            asked: What is asked; the content is that of its one input.
            memory: The state of a step model along a stream; None where the caller keeps it.
            learn: Keeps what the next request may need not find out again.
        """
        request = asked.message
        loaded = self._repository.find(request.model)
        execution = Execution(call, loaded, timed=request.timing)
        execution.check_room()
        outputs = loaded.signature.select_outputs(request.outputs)
        ranked = outputs_of.check_top_k(loaded, request.top_k)
        wanted = outputs if ranked is None else tuple(dict.fromkeys((*outputs, ranked.name)))
        if memory is not None:
            wanted = memory.add_outputs(loaded.signature, wanted)
        as_png = outputs_of.image_outputs(loaded, outputs) if request.png else []

        def encode(answer: Answer) -> PredictResponse:
            response = PredictResponse()
            if ranked is not None:
                scores = answer.outputs[ranked.name]
                response.classifications.extend(
                    outputs_of.classify(scores, ranked, loaded.labels, request.top_k)
                )
            for name in outputs:
                if name in as_png:
                    response.images.extend(outputs_of.pictures(answer.outputs[name]))
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
            rows = loaded.signature.check(inputs)
            learn(Plan(loaded, rows, wanted, loaded.config.first_priority))
            execution.run(inputs, rows, wanted, answered)

        self._read(call, loaded, asked, run)

    def answer_embed(
        self,
        call: Call,
        asked: Hollow[EmbedRequest],
        learn: Learn = learn_nothing,
    ) -> None:
        """Answers a request; all as in `answer_predict`."""
        request = asked.message
        loaded = self._repository.find(request.model)
        execution = Execution(call, loaded, timed=request.timing)
        execution.check_room()
        output = _embedding_output(loaded, request.output)

        def encode(answer: Answer) -> EmbedResponse:
            return EmbedResponse(
                embeddings=to_tensor(
                    _form_vectors(request.normalize, request.half_precision, answer.outputs[output])
                ),
                space_id=loaded.embedding_spaces[output],
            )

        def run(inputs: dict[str, Array]) -> None:
            rows = loaded.signature.check(inputs)
            learn(Plan(loaded, rows, (output,), loaded.config.first_priority))
            execution.run(
                inputs,
                rows,
                (output,),
                lambda answer: execution.reply(answer, lambda: encode(answer)),
            )

        self._read(call, loaded, asked, run)

    def _read(
        self,
        call: Call,
        loaded: Loaded,
        asked: Hollow[PredictRequest] | Hollow[EmbedRequest],
        run: Callable[[dict[str, Array]], None],
    ) -> None:
        """Calls `run` with the request's arrays, on the call's own thread."""
        request = asked.message

        def read() -> dict[str, Array]:
            return self._reader.read(
                loaded, request.inputs, request.images, request.texts, asked.content
            )

        def decode() -> None:
            inputs = read()
            call.resume(lambda: run(inputs))

        if request.images:
            call.offload(decode)
        else:
            run(read())


def learn_predictions(
    forms: RequestTemplates, message: bytes, asked: Hollow[PredictRequest], epoch: int
) -> Learn:
    """Returns what keeps the form of a request.

    Args:
        forms: Where.
        message: The bytes that the request came in.
        asked: The request.
        epoch: The repository's, from before its model was looked up.
    """

    def learn(terms: Plan) -> None:
        request = asked.message
        if not request.top_k and not request.png:
            _learn(forms, message, asked, terms, partial(encode_predictions, terms), epoch)

    return learn


def learn_embeddings(
    forms: RequestTemplates, message: bytes, asked: Hollow[EmbedRequest], epoch: int
) -> Learn:
    """Returns what keeps the form of a request; all as in `learn_predictions`."""

    def learn(terms: Plan) -> None:
        request = asked.message
        # Not the request itself, which would be kept with all its elements.
        form_vectors = partial(_form_vectors, request.normalize, request.half_precision)
        encode = partial(encode_embeddings, terms, form_vectors)
        _learn(forms, message, asked, terms, encode, epoch)

    return learn


def _only_tensor(request: PredictRequest | EmbedRequest) -> Tensor | None:
    """Returns the tensor that is all that a request has of its own; None where it has more.

    A label may come to point elsewhere at any time, and timing differs from answer to answer.
    """
    if (
        len(request.inputs) != 1
        or request.images
        or request.texts
        or request.timing
        or request.model.label
    ):
        return None
    return next(iter(request.inputs.values()))


def _learn(  # noqa: PLR0917  # each is one thing
    forms: RequestTemplates,
    message: bytes,
    asked: Hollow[PredictRequest] | Hollow[EmbedRequest],
    terms: Plan,
    encode: Encode,
    epoch: int,
) -> None:
    tensor = _only_tensor(asked.message)
    if tensor is None:
        return
    if asked.content is not None:
        begin, end = asked.begin, asked.begin + len(asked.content)
    else:
        begin = message.find(tensor.content)
        end = begin + len(tensor.content)
        # Elements that stand there twice do not tell where theirs is.
        if message.find(tensor.content, begin + 1) >= 0:
            return
    place = Slots(begin, begin, begin, end)
    forms.learn(message, place, tuple(tensor.shape), terms, encode, epoch)


def _form_vectors(normalize: bool, half_precision: bool, vectors: Array) -> Array:
    """Returns embeddings, (rows, dimension), in the form that is asked for."""
    vectors = vectors.astype(np.float32, copy=False)
    if normalize:
        vectors = outputs_of.normalized(vectors)
    return vectors.astype(np.float16) if half_precision else vectors


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
