"""Generate and GenerateStream of InferenceService; what is written for them is in `texts`.

Samples are made in runs of a fixed number of rows, the last one padded, so that the bytes of a
sample do not depend on how many others are asked for.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import draw_latents
from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.vocabulary import Vocabulary
from forwardpass.server.native import outputs as outputs_of
from forwardpass.server.native.limits import Limit
from forwardpass.server.native.schema import LATENTS
from forwardpass.server.native.text import Texts, read_request
from forwardpass.server.onnx.signature import Signature, TensorSpec
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.parse import parse
from forwardpass.server.scheduling.job import Answer, Outcome
from forwardpass.server.transport.call import Call
from forwardpass.v1 import model_card_pb2
from forwardpass.v1.inference_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamRequest,
    GenerateStreamResponse,
)
from forwardpass.wire import Array, Reason, to_tensor

MAX_COUNT = 1024
# Rows of one run of a generator.
CHUNK_ROWS = 16


class Generation:
    """Answers Generate and GenerateStream.

    Args:
        repository: The models.
        reader: Makes arrays of requests.
    """

    def __init__(self, repository: Repository, reader: InputReader) -> None:
        self._repository = repository
        self._reader = reader

    def generate(self, call: Call, message: bytes) -> None:
        """Answers a GenerateRequest with all samples at once."""
        _LIMIT.check(self._repository, message)
        request = parse(GenerateRequest, message)
        parts: dict[int, Answer] = {}

        def begin(draw: _Draw) -> None:
            def collect(start: int, answer: Answer) -> None:
                # This runs on the call's own thread, one part after another.
                parts[start] = answer
                if len(parts) == len(draw.chunks):
                    made = [parts[start].outputs[draw.output.name] for start in sorted(parts)]
                    samples = np.concatenate(made)[: draw.count]
                    draw.execution.reply(
                        _total(parts.values()),
                        lambda: draw.encode(samples),
                        takes_long=draw.as_png,
                    )

            draw.begin(collect)

        self._prepare(call, request, begin, Texts.reply)

    def generate_stream(self, call: Call, message: bytes) -> None:
        """Answers a GenerateStreamRequest with the samples of each run as soon as it is done."""
        _LIMIT.check_streamed(self._repository, message)
        request = parse(GenerateStreamRequest, message).request
        ready: dict[int, tuple[bytes, int]] = {}
        sent = 0

        def begin(draw: _Draw) -> None:
            def encode(start: int, answer: Answer) -> None:
                samples = answer.outputs[draw.output.name][: draw.count - start]
                part = draw.execution.complete(answer, lambda: draw.encode(samples))
                data = GenerateStreamResponse(part=part, index=start).SerializeToString()
                call.resume(lambda: send(start, data, len(samples)))

            def send(start: int, data: bytes, count: int) -> None:
                # Pictures are encoded side by side, but sent in order.
                nonlocal sent
                ready[start] = data, count
                while sent in ready:
                    data, count = ready.pop(sent)
                    call.send(data)
                    sent += count
                if sent == draw.count:
                    call.finish()

            def made(start: int, answer: Answer) -> None:
                if draw.as_png:
                    call.offload(partial(encode, start, answer))
                else:
                    encode(start, answer)

            draw.begin(made)

        self._prepare(call, request, begin, lambda texts: texts.send(call))

    def _prepare(
        self,
        call: Call,
        request: GenerateRequest,
        begin: Callable[["_Draw"], None],
        write: Callable[[Texts], None],
    ) -> None:
        """Calls `begin`, or `write`, with what it takes to answer, on the call's own thread."""
        loaded = self._repository.find(request.model)
        execution = Execution(call, loaded, timed=request.timing)
        execution.check_room()

        def draw() -> None:
            if loaded.vocabulary is None:
                drawn = self._draw(loaded, execution, request)
                call.resume(lambda: begin(drawn))
            else:
                texts = _texts(loaded, loaded.vocabulary, execution, request)
                call.resume(lambda: write(texts))

        call.offload(draw)

    def _draw(self, loaded: Loaded, execution: Execution, request: GenerateRequest) -> "_Draw":
        """Checks a request, and draws its latents."""
        latent = _latent_input(loaded)
        _refuse_text_options(request)
        seed, latents = self._latents(request, latent)
        count = len(latents)
        inputs = {latent.name: latents, **_class_input(loaded, request, count)}
        loaded.signature.check({name: array[:1] for name, array in inputs.items()})
        output = _sample_output(loaded)
        if request.png:
            _check_png(output)
        chunks = _chunks(inputs, count, _chunk_rows(loaded))
        return _Draw(execution, chunks, output, count, seed, as_png=request.png)

    def _latents(
        self, request: GenerateRequest, spec: TensorSpec
    ) -> tuple[int | None, NDArray[np.float32]]:
        """Returns the seed, None where the caller gave latents, and the latents."""
        if not request.HasField("latents"):
            seed, count = _seed(request), _count(request)
            return seed, draw_latents(seed, count, spec.shape[1])
        if request.HasField("seed"):
            raise InvalidInput("give a seed or latents, not both", field="seed")
        latents = self._reader.tensor("latents", request.latents)
        if latents.ndim != 2 or latents.shape[1] != spec.shape[1] or latents.dtype != np.float32:
            raise InvalidInput(
                f"latents are {latents.dtype} {list(latents.shape)}, "
                f"but the model takes float32 [count, {spec.shape[1]}]",
                field="latents",
            )
        if request.HasField("count") and request.count != len(latents):
            raise InvalidInput(
                f"count is {request.count}, but there are {len(latents)} latents", field="count"
            )
        _check_count(len(latents))
        return None, latents


@dataclass(frozen=True, slots=True)
class _Draw:
    """The runs that a request takes, and how their samples are sent.

    Attributes:
        execution: Runs the model.
        chunks: The inputs of each run.
        output: Which output the samples are.
        count: How many are asked for.
        seed: What the latents were drawn from; None where the caller gave them.
        as_png: Whether the samples are sent as PNG.
    """

    execution: Execution
    chunks: list[tuple[dict[str, Array], int]]
    output: TensorSpec
    count: int
    seed: int | None
    as_png: bool

    def begin(self, then: Callable[[int, Answer], None]) -> None:
        """Submits every run; `then` takes the number of its first sample, and its answer."""
        start = 0
        for chunk, rows in self.chunks:
            self.execution.run(chunk, rows, (self.output.name,), partial(then, start), alone=True)
            start += rows

    def encode(self, samples: Array) -> GenerateResponse:
        """Returns the samples as a message."""
        response = GenerateResponse(seed=self.seed)
        if self.as_png:
            response.images.extend(outputs_of.pictures(samples))
        else:
            response.samples.CopyFrom(to_tensor(samples))
        return response


def _max_latent_bytes(signature: Signature) -> int:
    """Returns how many bytes the latents of a request have at most; 0 where there are none."""
    spec = signature.input_of(model_card_pb2.TENSOR_ROLE_LATENT)
    return 0 if spec is None else MAX_COUNT * spec.row_bytes


_LIMIT = Limit(GenerateRequest, LATENTS, (), _max_latent_bytes)


def _seed(request: GenerateRequest) -> int:
    return request.seed if request.HasField("seed") else secrets.randbits(64)


def _count(request: GenerateRequest) -> int:
    count = request.count if request.HasField("count") else 1
    _check_count(count)
    return count


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput(
            f"{count} samples, but a request may ask for 1 to {MAX_COUNT}",
            field="count",
            expected=MAX_COUNT,
            got=count,
        )


def _latent_input(loaded: Loaded) -> TensorSpec:
    spec = loaded.signature.input_of(model_card_pb2.TENSOR_ROLE_LATENT)
    if spec is None:
        raise CallError(
            Reason.TASK_UNSUPPORTED,
            f"model {quote(loaded.name)} is no generator; it answers {', '.join(loaded.calls)}",
            field="model",
        )
    return spec


def _refuse_text_options(request: GenerateRequest) -> None:
    for field in ("prompt", "temperature", "length"):
        if request.HasField(field):
            raise InvalidInput(f"{field} is given, but the model generates no text", field=field)


def _texts(
    loaded: Loaded, vocabulary: Vocabulary, execution: Execution, request: GenerateRequest
) -> Texts:
    """Checks a request for texts, and draws what they are chosen by."""
    for field in ("latents", "class_index", "class_label"):
        if request.HasField(field):
            raise InvalidInput(f"{field} is given, but the model generates text", field=field)
    if request.png:
        raise InvalidInput("png is given, but the samples are no images", field="png")
    return read_request(
        request,
        loaded,
        vocabulary,
        execution,
        count=_count(request),
        seed=_seed(request),
        rows=_chunk_rows(loaded),
    )


def _class_input(loaded: Loaded, request: GenerateRequest, count: int) -> dict[str, Array]:
    """Returns the class asked for, once a row; nothing where the model takes no class."""
    spec = loaded.signature.input_of(model_card_pb2.TENSOR_ROLE_CLASS)
    chosen = request.WhichOneof("class")
    if spec is None:
        if chosen:
            raise InvalidInput("a class is given, but the model takes none", field=chosen)
        return {}
    if chosen is None:
        raise InvalidInput("the model takes a class; give its index or label", field="class_index")
    labels = list(loaded.labels)
    if chosen == "class_label":
        if request.class_label not in labels:
            raise InvalidInput(
                f"no class {quote(request.class_label)}{nearest(request.class_label, labels)}",
                field=chosen,
            )
        index = labels.index(request.class_label)
    else:
        index = request.class_index
        if index >= len(labels):
            raise InvalidInput(
                f"class {index}, but the model has classes 0 to {len(labels) - 1}", field=chosen
            )
    return {spec.name: np.full(count, index, np.int64)}


def _sample_output(loaded: Loaded) -> TensorSpec:
    images = loaded.signature.outputs_of(model_card_pb2.TENSOR_ROLE_IMAGE)
    return images[0] if images else next(iter(loaded.signature.outputs.values()))


def _check_png(output: TensorSpec) -> None:
    if output.role != model_card_pb2.TENSOR_ROLE_IMAGE:
        raise InvalidInput("png is given, but the samples are no images", field="png")


def _chunk_rows(loaded: Loaded) -> int:
    if not loaded.signature.batched:
        return 1
    return min(CHUNK_ROWS, loaded.signature.max_rows or CHUNK_ROWS)


def _chunks(
    inputs: Mapping[str, Array], count: int, rows: int
) -> list[tuple[dict[str, Array], int]]:
    """Cuts inputs into chunks of `rows` rows, the last one padded with zeros."""
    chunks = []
    for start in range(0, count, rows):
        chunk = {name: array[start : start + rows] for name, array in inputs.items()}
        short = rows - min(rows, count - start)
        if short:
            chunk = {
                name: np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)])
                for name, part in chunk.items()
            }
        chunks.append((chunk, rows))
    return chunks


def _total(parts: Collection[Answer]) -> Answer:
    return Answer(
        Outcome(
            {},
            rows=max(part.run.rows for part in parts),
            seconds=sum(part.run.seconds for part in parts),
        ),
        start=0,
        rows=0,
        queue_seconds=min(part.queue_seconds for part in parts),
    )
