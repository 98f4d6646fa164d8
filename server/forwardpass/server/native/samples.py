"""What a request for samples asks for: latents, drawn or given, in runs of a fixed number of rows.

The last run is padded, so that the bytes of a sample do not depend on how many others are asked
for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import draw_latents
from forwardpass.server.errors import CallError, InvalidInput, nearest, quote
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.native.outputs import pictures
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.rpc.execution import Execution
from forwardpass.server.rpc.inputs import InputReader, check_size
from forwardpass.server.rpc.receive import Received
from forwardpass.server.scheduling.job import Answer
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.task import Future
from forwardpass.v1 import model_card_pb2
from forwardpass.v1.inference_service_pb2 import GenerateRequest, GenerateResponse
from forwardpass.wire import Array, Reason, to_tensor

_LATENT = model_card_pb2.TENSOR_ROLE_LATENT


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

    def encode(self, samples: Array, call: Call) -> GenerateResponse:
        """Returns samples as a message, for a call that is there."""
        response = GenerateResponse(seed=self.seed)
        if self.as_png:
            response.images.extend(pictures(samples, call))
        else:
            response.samples.CopyFrom(to_tensor(samples))
        return response


def read_samples(  # noqa: PLR0917  # each is one thing
    reader: InputReader,
    loaded: Loaded,
    received: Received[Any],
    request: GenerateRequest,
    drawn: tuple[int, int] | None,
    most: int,
    rows: int,
) -> Samples:
    """Checks a request for samples, and draws its latents.

    Args:
        reader: Makes arrays of requests.
        loaded: The model.
        received: What the request came in.
        request: The request.
        drawn: The seed and the number of the latents to draw; None where the caller gives them.
        most: The most samples of a request.
        rows: How many rows each run has.

    Raises:
        CallError: TASK_UNSUPPORTED: the model is no generator.
        InvalidInput: Options that contradict each other or the model.
    """
    latent = _latent_input(loaded)
    check_size(loaded, received, most * latent.row_bytes)
    for field in ("prompt", "temperature", "length"):
        if request.HasField(field):
            raise InvalidInput(f"{field} is given, but the model generates no text", field=field)
    if drawn is None:
        seed, latents = None, _given_latents(reader, received, request, latent)
    else:
        seed, latents = drawn[0], draw_latents(*drawn, latent.shape[1])
    count = len(latents)
    inputs = {latent.name: latents, **_class_input(loaded, request, count)}
    loaded.signature.check({name: array[:1] for name, array in inputs.items()})
    output = _sample_output(loaded)
    if request.png and output.role != model_card_pb2.TENSOR_ROLE_IMAGE:
        raise InvalidInput("png is given, but the samples are no images", field="png")
    return Samples(_chunks(inputs, count, rows), rows, output, count, seed, request.png)


def sample_bytes(loaded: Loaded, request: GenerateRequest, most: int) -> int:
    """Returns how many bytes the samples of a request take; 0 where that is not known before.

    Args:
        loaded: The model.
        request: The request, not checked yet.
        most: The most samples of a request.
    """
    if loaded.vocabulary is not None or loaded.signature.input_of(_LATENT) is None:
        return 0
    count = request.latents.shape[0] if request.latents.shape else request.count or 1
    return min(max(count, 1), most) * _sample_output(loaded).row_bytes


def _given_latents(
    reader: InputReader, received: Received[Any], request: GenerateRequest, spec: TensorSpec
) -> NDArray[np.float32]:
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
    return latents


def _latent_input(loaded: Loaded) -> TensorSpec:
    spec = loaded.signature.input_of(_LATENT)
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
