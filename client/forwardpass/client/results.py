"""What calls answer with, in numpy and plain Python.

Arrays look at the received bytes themselves and are read-only: copy one to change it. Strings are
object arrays of `str`. bfloat16 arrays have the dtype of that name from ml_dtypes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from numpy.typing import NDArray

from forwardpass.client import shown
from forwardpass.client.errors import ServerError
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

    def __repr__(self) -> str:
        parts = [f"{self.model!r} version {self.version}", shown.sizes(self.outputs)]
        if self.classes:
            parts.append(shown.likeliest(self.classes))
        if self.images:
            parts.append(f"{len(self.images)} PNG images")
        return f"Prediction({'; '.join(filter(None, parts))})"

    def _repr_html_(self) -> str:
        """For notebooks: a bar for each class, and pictures."""
        title = f"<b>{escape(self.model)} version {self.version}</b>: "
        html = title + escape(shown.sizes(self.outputs))
        if self.classes:
            html += shown.bars(self.classes)
        return html + (shown.pictures(self.images) if self.images else "")


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

    def __repr__(self) -> str:
        vectors = shown.size(self.vectors)
        return f"Embeddings({self.model!r} version {self.version}; vectors: {vectors})"


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

    def __repr__(self) -> str:
        parts = [f"{self.model!r} version {self.version}"]
        if self.samples is not None:
            parts.append(f"samples: {shown.size(self.samples)}")
        if self.images:
            parts.append(f"{len(self.images)} PNG images")
        if self.texts:
            parts.append(f"{len(self.texts)} texts")
        if self.seed is not None:
            parts.append(f"seed {self.seed}")
        return f"Generated({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """For notebooks: the pictures or the texts."""
        files = self.images or shown.as_png(self.samples)
        if files:
            return shown.pictures(files)
        texts = "".join(f"<pre>{escape(text)}</pre>" for text in self.texts)
        return texts or escape(repr(self))


def to_prediction(response: pb.PredictResponse) -> Prediction:
    model, tensors = response.model, response.outputs
    return Prediction(
        model=model.name,
        version=model.version,
        # By key: `items` of protobuf's maps is Python.
        outputs={name: to_array(tensors[name]) for name in tensors},
        classes=_classes(response.classifications) if response.classifications else (),
        images=tuple(response.images) if response.images else (),
        timing=_timing(response) if response.HasField("timing") else None,
    )


def ordered(prediction: Prediction, names: Iterable[str]) -> Prediction:
    """Returns a prediction with its outputs in the order of the names, any others behind."""
    given = prediction.outputs
    order = dict.fromkeys([*(name for name in names if name in given), *given])
    return replace(prediction, outputs={name: given[name] for name in order})


def to_embeddings(response: pb.EmbedResponse) -> Embeddings:
    model = response.model
    return Embeddings(
        model=model.name,
        version=model.version,
        vectors=to_array(response.embeddings).astype(np.float32, copy=False),
        space_id=response.space_id,
        timing=_timing(response) if response.HasField("timing") else None,
    )


def join_predictions(parts: Sequence[Prediction], rows: Sequence[int]) -> Prediction:
    """Returns the predictions of consecutive rows as one.

    Args:
        parts: At least one.
        rows: How many rows each has.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    images = [
        image
        for output in range(len(first.images) // rows[0])
        for part, count in zip(parts, rows, strict=True)
        for image in part.images[output * count : (output + 1) * count]
    ]
    return replace(
        first,
        outputs={
            name: np.concatenate([part.outputs[name] for part in parts]) for name in first.outputs
        },
        classes=tuple(row for part in parts for row in part.classes),
        images=tuple(images),
        timing=None,
    )


def join_embeddings(parts: Sequence[Embeddings], rows: Sequence[int]) -> Embeddings:
    """Returns the vectors of consecutive rows as one.

    Args:
        parts: At least one.
        rows: How many rows each has.

    Raises:
        ServerError: They are of different spaces, as the version has changed meanwhile.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({part.space_id for part in parts}) > 1:
        versions = " and ".join(sorted({str(part.version) for part in parts}))
        raise ServerError(
            f"the rows were embedded by versions {versions} of {first.model}, whose vectors do not "
            "compare: name a version"
        )
    vectors = np.concatenate([part.vectors for part in parts])
    assert len(vectors) == sum(rows)
    return replace(first, vectors=vectors, timing=None)


def divide_prediction(prediction: Prediction, rows: int) -> list[Prediction]:
    """Returns a prediction for each row."""
    if rows == 1:
        return [prediction]
    return [
        replace(
            prediction,
            outputs={name: array[row : row + 1] for name, array in prediction.outputs.items()},
            classes=prediction.classes[row : row + 1],
            images=prediction.images[row::rows],
        )
        for row in range(rows)
    ]


def divide_embeddings(embeddings: Embeddings, rows: int) -> list[Embeddings]:
    """Returns each row's vector."""
    return [replace(embeddings, vectors=embeddings.vectors[row : row + 1]) for row in range(rows)]


def to_generated(response: pb.GenerateResponse) -> Generated:
    return Generated(
        model=response.model.name,
        version=response.model.version,
        samples=to_array(response.samples) if response.HasField("samples") else None,
        images=tuple(response.images),
        texts=tuple(response.texts),
        seed=response.seed if response.HasField("seed") else None,
        timing=_timing(response) if response.HasField("timing") else None,
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


def _classes(rows: Iterable[pb.Classification]) -> tuple[tuple[ClassScore, ...], ...]:
    return tuple(
        tuple(ClassScore(score.index, score.label, score.probability) for score in row.classes)
        for row in rows
    )


def _timing(
    response: pb.PredictResponse | pb.EmbedResponse | pb.GenerateResponse,
) -> Timing:
    timing = response.timing
    return Timing(
        queue=timing.queue.ToNanoseconds() / 1e9,
        decode=timing.decode.ToNanoseconds() / 1e9,
        compute=timing.compute.ToNanoseconds() / 1e9,
        encode=timing.encode.ToNanoseconds() / 1e9,
        batch_rows=timing.batch_rows,
    )
