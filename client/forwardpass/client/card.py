"""A model's card, in plain Python: what its trainer wrote into the artefact."""

from collections.abc import Mapping
from dataclasses import dataclass

from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import DTYPES


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Its name in the graph.
        dtype: The type of its elements, as numpy names it; "string" for text.
        shape: Its extents, -1 where any extent will do.
        role: What it means, such as "image", "text", "embedding"; "unspecified" where unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How an encoded image becomes the model's image input.

    Attributes:
        input: The input that takes it, uint8 (rows, height, width, channels).
        height: Pixels to resize to.
        width: Pixels to resize to.
        channels: 1 for greyscale, 3 for RGB.
    """

    input: str
    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where the training data came from.

    Attributes:
        name: The data set's name, such as "mnist".
        origin: Where it was had, such as a package and its version.
        license: The licence its publisher states; empty where none is stated.
        sha256: The digest of the arrays, in hexadecimal.
        train_rows: Examples that the model learned from.
        test_rows: Other examples, which the metrics were measured on.
    """

    name: str
    origin: str
    license: str
    sha256: str
    train_rows: int
    test_rows: int


@dataclass(frozen=True, slots=True)
class Card:
    """What a model is.

    Attributes:
        description: One sentence on what it does.
        recipe: The recipe that trained it.
        settings: The recipe's settings, as text.
        labels: The name of each class.
        image: How to make its input of a JPEG or PNG; None where it takes none.
        metrics: What was measured on the test rows, such as "accuracy", in [0, 1].
        parameters: The number of trained numbers.
        data: What it was trained and tested on; None where not told.
        seed: The seed that made the run repeatable.
        tolerance: (relative, absolute): how far answers may be from torch's.
        parity_error: The greatest difference from torch that export measured.
        versions: The software that made it, such as "torch": "2.13.0".
        reference: The paper or book that the architecture is from.
    """

    description: str
    recipe: str
    settings: Mapping[str, str]
    labels: tuple[str, ...]
    image: ImageInput | None
    metrics: Mapping[str, float]
    parameters: int
    data: DataSource | None
    seed: int
    tolerance: tuple[float, float]
    parity_error: float
    versions: Mapping[str, str]
    reference: str


def to_card(message: pb.ModelCard) -> Card:
    image, data = message.image, message.data
    return Card(
        description=message.description,
        recipe=message.recipe,
        settings=dict(message.settings),
        labels=tuple(message.labels),
        image=(
            ImageInput(image.input, image.height, image.width, image.channels)
            if message.HasField("image")
            else None
        ),
        metrics=dict(message.metrics),
        parameters=message.parameters,
        data=(
            DataSource(
                data.name, data.origin, data.license, data.sha256, data.train_rows, data.test_rows
            )
            if message.HasField("data")
            else None
        ),
        seed=message.seed,
        tolerance=(message.tolerance.relative, message.tolerance.absolute),
        parity_error=message.parity_error,
        versions=dict(message.versions),
        reference=message.reference,
    )


def to_tensor_spec(message: pb.TensorSpec) -> TensorSpec:
    kind = DTYPES.get(message.data_type)
    # A later server may know types and roles that this client does not.
    known = message.role in pb.TensorRole.values()
    role = pb.TensorRole.Name(message.role) if known else "TENSOR_ROLE_UNSPECIFIED"
    return TensorSpec(
        name=message.name,
        dtype=kind.name if kind else "unspecified",
        shape=tuple(message.shape),
        role=role.removeprefix("TENSOR_ROLE_").lower(),
    )
