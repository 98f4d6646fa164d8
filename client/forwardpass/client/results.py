"""What calls answer with, in numpy and plain Python.

Arrays look at the received bytes themselves and are read-only: copy one to change it. Strings are
object arrays of `str`. bfloat16 arrays have the dtype of that name from ml_dtypes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import Array, from_tensor


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one call went on the server, in seconds.

    Attributes:
        queue: Waiting for its turn.
        decode: Parsing, checking and gathering inputs.
        compute: In ONNX Runtime.
        encode: Making the answer.
        batch_rows: The rows of the run that answered the call, its own and others'.
    """

    queue: float
    decode: float
    compute: float
    encode: float
    batch_rows: int


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class.

    Attributes:
        index: Its place in the card's labels.
        label: Its name.
        probability: In [0, 1].
    """

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A model's outputs.

    Attributes:
        model: The model that answered.
        version: Its version.
        outputs: The outputs asked for, by name.
        classes: For each row its likeliest classes, likeliest first; empty unless `top_k` was
            given.
        images: The rows of each image output as PNG files, output by output, in the order asked
            for, which is the signature's where none was; empty unless `png` was given.
        timing: Where the time went, if asked.
    """

    model: str
    version: int
    outputs: Mapping[str, Array]
    classes: tuple[tuple[ClassScore, ...], ...]
    images: tuple[bytes, ...]
    timing: Timing | None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Feature vectors.

    Attributes:
        model: The model that answered.
        version: Its version.
        vectors: float32 (rows, dimension).
        space_id: The identity of the vectors: compare only vectors whose ids are equal.
        timing: Where the time went, if asked.
    """

    model: str
    version: int
    vectors: NDArray[np.float32]
    space_id: str
    timing: Timing | None


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Samples of a generator.

    Attributes:
        model: The model that answered.
        version: Its version.
        samples: (count, ...); None where they are texts, or images asked for as PNG.
        images: The samples as PNG files, if asked.
        texts: The samples of a text generator.
        seed: With it the same call gives the same samples; None where latents were given.
        timing: Where the time went, if asked.
    """

    model: str
    version: int
    samples: Array | None
    images: tuple[bytes, ...]
    texts: tuple[str, ...]
    seed: int | None
    timing: Timing | None


def to_prediction(response: pb.PredictResponse) -> Prediction:
    return Prediction(
        model=response.model.name,
        version=response.model.version,
        outputs={name: to_array(tensor) for name, tensor in response.outputs.items()},
        classes=tuple(
            tuple(ClassScore(c.index, c.label, c.probability) for c in row.classes)
            for row in response.classifications
        ),
        images=tuple(response.images),
        timing=_timing(response),
    )


def to_embeddings(response: pb.EmbedResponse) -> Embeddings:
    return Embeddings(
        model=response.model.name,
        version=response.model.version,
        vectors=to_array(response.embeddings).astype(np.float32, copy=False),
        space_id=response.space_id,
        timing=_timing(response),
    )


def to_generated(response: pb.GenerateResponse) -> Generated:
    return Generated(
        model=response.model.name,
        version=response.model.version,
        samples=to_array(response.samples) if response.HasField("samples") else None,
        images=tuple(response.images),
        texts=tuple(response.texts),
        seed=response.seed if response.HasField("seed") else None,
        timing=_timing(response),
    )


def to_array(tensor: tensor_pb2.Tensor) -> Array:
    """Returns the tensor's elements; strings as `str`.

    Raises:
        TensorError: The tensor contradicts itself.
    """
    array = from_tensor(tensor)
    if tensor.data_type != tensor_pb2.DATA_TYPE_STRING:
        return array
    texts = np.empty(array.size, object)
    # Should a model give bytes that are no UTF-8, they can still be had back from the text.
    texts[:] = [item.decode("utf-8", "surrogateescape") for item in array.flat]
    return texts.reshape(array.shape)


def _timing(
    response: pb.PredictResponse | pb.EmbedResponse | pb.GenerateResponse,
) -> Timing | None:
    if not response.HasField("timing"):
        return None
    timing = response.timing
    return Timing(
        queue=timing.queue.ToNanoseconds() / 1e9,
        decode=timing.decode.ToNanoseconds() / 1e9,
        compute=timing.compute.ToNanoseconds() / 1e9,
        encode=timing.encode.ToNanoseconds() / 1e9,
        batch_rows=timing.batch_rows,
    )
