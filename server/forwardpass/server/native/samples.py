"""What a request for samples asks for: latents, drawn or given, in runs of a fixed number of rows.

The last run is padded, so that the bytes of a sample do not depend on how many others are asked
for.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import draw_latents
from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.outputs import pictures
from forwardpass.server.onnx.signature import Signature, TensorSpec
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.task import Future
from forwardpass.v1 import model_card_pb2
from forwardpass.v1.inference_service_pb2 import GenerateRequest, GenerateResponse
from forwardpass.wire import Array, Reason, to_tensor

MAX_COUNT = 1024
# Rows of one run of a generator.
CHUNK_ROWS = 16


@dataclass(frozen=True, slots=True)
class Samples:
    """The runs that a request takes, and how their samples are sent.

    Attributes:
        chunks: The inputs of each run.
        rows: How many rows each run has.
        output: Which output the samples are.
        count: How many are asked for.
        seed: What the latents were drawn from; None where the caller gave them.
        as_png: Whether the samples are sent as PNG.
    """

    chunks: list[dict[str, Array]]
    rows: int
    output: TensorSpec
    count: int
    seed: int | None
    as_png: bool

    def run(self, execution: Execution) -> list[Future[Answer]]:
        """Begins every run; returns their answers, in order."""
        outputs = (self.output.name,)
        return [execution.run(chunk, self.rows, outputs, alone=True) for chunk in self.chunks]

    def encode(self, samples: Array) -> GenerateResponse:
        """Returns samples as a message."""
        response = GenerateResponse(seed=self.seed)
        if self.as_png:
            response.images.extend(pictures(samples))
        else:
            response.samples.CopyFrom(to_tensor(samples))
        return response


def read_samples(
    reader: InputReader, loaded: Loaded, received: Received[Any], request: GenerateRequest
) -> Samples:
    """Checks a request for samples, and draws its latents.

    Args:
        reader: Makes arrays of requests.
        loaded: The model.
        received: What the request came in.
        request: The request.

    Raises:
        CallError: TASK_UNSUPPORTED: the model is no generator.
        InvalidInput: Options that contradict each other or the model.
    """
    latent = _latent_input(loaded)
    for field in ("prompt", "temperature", "length"):
        if request.HasField(field):
            raise InvalidInput(f"{field} is given, but the model generates no text", field=field)
    seed, latents = _latents(reader, received, request, latent)
    count = len(latents)
    inputs = {latent.name: latents, **_class_input(loaded, request, count)}
    loaded.signature.check({name: array[:1] for name, array in inputs.items()})
    output = _sample_output(loaded)
    if request.png and output.role != model_card_pb2.TENSOR_ROLE_IMAGE:
        raise InvalidInput("png is given, but the samples are no images", field="png")
    rows = chunk_rows(loaded)
    return Samples(_chunks(inputs, count, rows), rows, output, count, seed, request.png)


def max_latent_bytes(signature: Signature) -> int:
    """Returns how many bytes the latents of a request have at most; 0 where there are none."""
    spec = signature.input_of(model_card_pb2.TENSOR_ROLE_LATENT)
    return 0 if spec is None else MAX_COUNT * spec.row_bytes


def _latents(
    reader: InputReader, received: Received[Any], request: GenerateRequest, spec: TensorSpec
) -> tuple[int | None, NDArray[np.float32]]:
    """Returns the seed, None where the caller gave latents, and the latents."""
    if not request.HasField("latents"):
        seed, count = seed_of(request), count_of(request)
        return seed, draw_latents(seed, count, spec.shape[1])
    if request.HasField("seed"):
        raise InvalidInput("give a seed or latents, not both", field="seed")
    given = request.latents
    latents = reader.tensor("latents", given, received.content(given.content))
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


def seed_of(request: GenerateRequest) -> int:
    """Returns the seed asked for, else a random one."""
    return request.seed if request.HasField("seed") else secrets.randbits(64)


def count_of(request: GenerateRequest) -> int:
    """Returns how many samples are asked for.

    Raises:
        InvalidInput: None, or too many.
    """
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


def chunk_rows(loaded: Loaded) -> int:
    """Returns how many rows a run has."""
    if not loaded.signature.batched:
        return 1
    return min(CHUNK_ROWS, loaded.signature.max_rows or CHUNK_ROWS)


def _chunks(inputs: Mapping[str, Array], count: int, rows: int) -> list[dict[str, Array]]:
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
        chunks.append(chunk)
    return chunks
