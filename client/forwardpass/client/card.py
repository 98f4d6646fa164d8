"""A model's card, in plain Python: what its trainer wrote into the artefact."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.v1.model_service_pb2 import Model
from forwardpass.wire import DTYPES, Preparation, from_preparation


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
        preparation: What is done to it on the way.
    """

    input: str
    height: int
    width: int
    channels: int
    preparation: Preparation = field(default_factory=Preparation)


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """How bright the pictures are that a model learned from; 0 is black, 1 white.

    Attributes:
        mean: Of all pixels.
        deviation: The standard deviation of all pixels.
        ground_mean: Of the pictures' grounds: each the median of a picture's outermost pixels.
        ground_deviation: The standard deviation of the grounds.
    """

    mean: float
    deviation: float
    ground_mean: float
    ground_deviation: float


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
        pixels: Of the examples that the model learned from; None where they are no pictures, or
            not told.
        left_out: How many of each "column", "row", "field" or "file" were not used.
    """

    name: str
    origin: str
    license: str
    sha256: str
    train_rows: int
    test_rows: int
    pixels: PixelStatistics | None
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How near one output of an int8 model is to its parent's, on the test rows.

    Attributes:
        max_absolute: The greatest difference of any element.
        mean_cosine: The mean cosine between a row and the parent's.
        same_class: The share of rows whose greatest score is the same; None for other outputs.
    """

    max_absolute: float
    mean_cosine: float
    same_class: float | None


@dataclass(frozen=True, slots=True)
class Quantization:
    """What an int8 model was made from.

    Attributes:
        parent_sha256: Of the parent's model.onnx, in hexadecimal.
        parent_version: The parent's version.
        parent_metrics: The parent's, measured on the same test rows.
        calibration_rows: Training rows that set the ranges of the integers.
        max_loss: How much any metric was allowed to fall.
        differences: How near each output is, by name.
    """

    parent_sha256: str
    parent_version: int
    parent_metrics: Mapping[str, float]
    calibration_rows: int
    max_loss: float
    differences: Mapping[str, OutputDifference]


@dataclass(frozen=True, slots=True)
class RowIndependence:
    """How near rows that share a run are to the same rows alone.

    Attributes:
        rows: How many rows shared a run.
        difference: The greatest difference of an element, as a share of the greatest of its row.
    """

    rows: int
    difference: float


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model that was published.

    Attributes:
        name: Its name in the repository.
        version: Its version.
        sha256: Of its model.onnx, in hexadecimal.
    """

    name: str
    version: int
    sha256: str


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
        tolerance: (relative, absolute): how far answers may be from the golden ones.
        parity_error: The greatest difference that export measured: from torch, or of an int8 model
            between integer arithmetic and float.
        versions: The software that made it, such as "torch": "2.13.0".
        reference: The paper or book that the architecture is from.
        quantization: What an int8 model was made from; None for any other.
        row_independence: As export measured it; None where it did not.
        threads: How many threads of the CPU computed it; 0 where not told.
        judge: Of a generator, the model whose reading of what it draws the metrics tell; None for
            any other.
        golden_source: Whose answers the golden outputs are: "torch", "scikit-learn", or
            "onnxruntime" for an int8 model and for an ONNX file that is compared with itself.
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
    quantization: Quantization | None
    row_independence: RowIndependence | None
    threads: int
    judge: PublishedModel | None
    golden_source: str


def to_card(message: pb.ModelCard) -> Card:
    image = message.image
    return Card(
        description=message.description,
        recipe=message.recipe,
        settings=dict(message.settings),
        labels=tuple(message.labels),
        image=(
            ImageInput(
                image.input,
                image.height,
                image.width,
                image.channels,
                from_preparation(image.preparation),
            )
            if message.HasField("image")
            else None
        ),
        metrics=dict(message.metrics),
        parameters=message.parameters,
        data=_to_data_source(message.data) if message.HasField("data") else None,
        seed=message.seed,
        tolerance=(message.tolerance.relative, message.tolerance.absolute),
        parity_error=message.parity_error,
        versions=dict(message.versions),
        reference=message.reference,
        quantization=(
            _to_quantization(message.quantization) if message.HasField("quantization") else None
        ),
        row_independence=to_row_independence(message),
        threads=message.threads,
        judge=(
            PublishedModel(message.judge.name, message.judge.version, message.judge.sha256)
            if message.HasField("judge")
            else None
        ),
        golden_source=message.golden_source
        or ("onnxruntime" if message.HasField("quantization") else "torch"),
    )


def to_row_independence(message: pb.ModelCard | Model) -> RowIndependence | None:
    if not message.HasField("row_independence"):
        return None
    measured = message.row_independence
    return RowIndependence(measured.rows, measured.max_relative_difference)


def _to_data_source(message: pb.DataSource) -> DataSource:
    pixels = message.pixels
    return DataSource(
        name=message.name,
        origin=message.origin,
        license=message.license,
        sha256=message.sha256,
        train_rows=message.train_rows,
        test_rows=message.test_rows,
        pixels=(
            PixelStatistics(
                pixels.mean, pixels.deviation, pixels.ground_mean, pixels.ground_deviation
            )
            if message.HasField("pixels")
            else None
        ),
        left_out=dict(message.left_out),
    )


def _to_quantization(message: pb.Quantization) -> Quantization:
    return Quantization(
        parent_sha256=message.parent_sha256,
        parent_version=message.parent_version,
        parent_metrics=dict(message.parent_metrics),
        calibration_rows=message.calibration_rows,
        max_loss=message.max_loss,
        differences={
            name: OutputDifference(
                output.max_absolute,
                output.mean_cosine,
                output.same_class if output.HasField("same_class") else None,
            )
            for name, output in message.differences.items()
        },
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
