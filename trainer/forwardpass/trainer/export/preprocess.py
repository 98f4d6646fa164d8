"""What a published graph does before a network's own first layer.

    pictures, texts or columns ─ apply, in Python ─► what the network takes ─► golden outputs
                             └── join, in the graph ─► what the network takes ─► ONNX Runtime's

Golden outputs come from Python's side, so the graph is held to both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer

from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.front import COUNTS, Front
from forwardpass.trainer.export.surgery import put_first, rename_input
from forwardpass.trainer.export.table import (
    as_fitted,
    convert,
    join_columns,
    refused_by,
    shape_text,
    to_columns,
    to_graph,
)
from forwardpass.wire import Array, Filter, Preparation, PreparationError, Resize

# What a network takes that has columns before it: no name that a caller would give to a column.
_FEATURES = "columns_features"
_RESIZE = {"squash": Resize.STRETCH, "crop": Resize.CROP}
# timm's words for what becomes of a picture of another ratio.
_TIMM_MODES: Mapping[str, Literal["squash", "crop"]] = {"center": "crop", "squash": "squash"}


class Preprocess(Protocol):
    """Makes what a network takes of what callers send."""

    def apply(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what the network takes, computed in Python.

        Raises:
            PublishError: The sample is not what this is for.
        """

    def join(self, head: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
        """Returns the graph that takes the sample and gives the head's outputs.

        Args:
            head: Takes what `apply` returns, under the same names.
            sample: Of which the names, types and extents count.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Pictures: what servers do to a JPEG or PNG, and the graph to its pixels.

    The sample is uint8 (n, height, width, channels), of `size` already. The network gets float32
    (n, channels, height, width): pixels in [0, 1], less the mean, over the standard deviation.

    Attributes:
        size: (height, width) in pixels, or the side of a square.
        resize: What becomes of a picture of another ratio: all of it is squashed to the size, or
            the rest is cut off around its middle ("crop").
        mean: Of the pixels in [0, 1] that the network learned from, one for all channels or each.
        std: Their standard deviation.
        crop: Of "crop", which share of the greatest such middle is kept, in (0, 1].
        filter: How pixels are mixed: "nearest", "box", "bilinear", "bicubic" or "lanczos".

    Raises:
        PublishError: There is no such mode, filter, share or deviation.
    """

    size: int | tuple[int, int]
    resize: Literal["squash", "crop"] = "squash"
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    crop: float = 1.0
    filter: str = "bilinear"

    def __post_init__(self) -> None:
        if self.resize not in _RESIZE:
            raise PublishError(f"resize {self.resize!r} is unknown; there are squash and crop")
        if not np.all(np.asarray(self.std) > 0):
            raise PublishError(f"std is {self.std}; a standard deviation is above 0")
        try:
            _ = self.preparation
        except PreparationError as error:
            raise PublishError(f"pictures cannot be prepared so: {error}") from None

    @property
    def preparation(self) -> Preparation:
        """What is done to a picture until it has the size."""
        # An unknown filter is told by Preparation.
        return Preparation(_RESIZE[self.resize], self.crop, self.filter)  # type: ignore[arg-type]

    def apply(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the sample with its pictures as the network takes them."""
        name = self._pictures(sample)
        mean, deviation = self._statistics(sample[name].shape[3])
        pixels = sample[name].astype(np.float32)
        scaled = ((pixels - mean) / deviation).transpose(0, 3, 1, 2)
        return {**sample, name: np.ascontiguousarray(scaled)}

    def join(self, head: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
        """Returns the graph that takes the sample's pictures."""
        name = self._pictures(sample)
        model = onnx.ModelProto()
        model.CopyFrom(head)
        inner = f"{name}/normalized"
        rename_input(model.graph, name, inner)
        channels = sample[name].shape[3]
        mean, deviation = self._statistics(channels)
        constants = {
            "scale": np.ones(channels, np.float32),
            "shift": np.zeros(channels, np.float32),
            "mean": mean,
            "variance": np.square(deviation),
        }
        nodes = [
            # No initializers: files of before 2019 list those among the inputs.
            *(
                helper.make_node(
                    "Constant", [], [f"{name}/{key}"], value=onnx.numpy_helper.from_array(value)
                )
                for key, value in constants.items()
            ),
            helper.make_node("Cast", [name], [f"{name}/float"], to=TensorProto.FLOAT),
            helper.make_node(
                "Transpose", [f"{name}/float"], [f"{name}/channels"], perm=[0, 3, 1, 2]
            ),
            # Not plain arithmetic, which ONNX Runtime is slow to apply to a channel each.
            helper.make_node(
                "BatchNormalization",
                [f"{name}/channels", *(f"{name}/{key}" for key in constants)],
                [inner],
                epsilon=0.0,
            ),
        ]
        put_first(model.graph, nodes)
        for value in model.graph.input:
            if value.name == inner:
                # Some files take one number of rows alone.
                rows = value.type.tensor_type.shape.dim[0]
                shape = [rows.dim_value or "n", *sample[name].shape[1:]]
                value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
        return model

    def _pictures(self, sample: Mapping[str, Array]) -> str:
        """Returns the name of the input that takes pictures."""
        names = [name for name, array in sample.items() if is_pictures(array)]
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        found = [name for name in names if sample[name].shape[1:3] == (height, width)]
        if len(found) != 1:
            given = ", ".join(f"{name} {shape_text(array)}" for name, array in sample.items())
            raise PublishError(
                f"Pixels takes one input of pictures, uint8 (n, {height}, {width}, 1 or 3); the "
                f"sample has {given}. Give pixels from 0 to 255, channels last, of that size"
            )
        return found[0]

    def _statistics(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns mean and deviation of each channel, in 0..255."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            if np.size(value) not in (1, channels):
                raise PublishError(
                    f"{name} has {np.size(value)} numbers, but the pictures have {channels} "
                    "channels; give one number, or one for each"
                )
        mean, deviation = (
            np.broadcast_to(np.asarray(value, np.float32) * 255, channels).astype(np.float32)
            for value in (self.mean, self.std)
        )
        return mean, deviation


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, counted as scikit-learn does: strings (n) to the network's float32 (n, words).

    Attributes:
        vectorizer: A fitted CountVectorizer, or a TfidfVectorizer, without stop words or functions
            of its own.
    """

    vectorizer: CountVectorizer

    def apply(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the counts of the sample's texts.

        Raises:
            PublishError: The sample is no texts, or the vectorizer leaves words out of n-grams.
        """
        if self.vectorizer.get_stop_words() and self.vectorizer.ngram_range != (1, 1):
            raise PublishError(
                "the vectorizer takes words together that stand on either side of a stop word, "
                "which the graph cannot; fit it without stop words, or with ngram_range=(1, 1)"
            )
        return {COUNTS: Front(self.vectorizer).counts(sample[self._texts(sample)])}

    def join(self, head: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
        """Returns the graph that counts the words of texts."""
        front = Front(self.vectorizer)
        return convert(self.vectorizer, lambda: front.join(head, self._texts(sample)))

    @staticmethod
    def _texts(sample: Mapping[str, Array]) -> str:
        names = [name for name, array in sample.items() if array.dtype.kind == "O"]
        if len(names) != 1 or len(sample) != 1 or sample[names[0]].ndim != 1:
            given = ", ".join(f"{name} {shape_text(array)}" for name, array in sample.items())
            raise PublishError(f"Texts takes one input of strings (n); the sample has {given}")
        return names[0]


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table, made into features by scikit-learn: float32 (n, features).

    The sample is a data frame, columns by name, or one array (n, columns).

    Attributes:
        transformer: Fitted, such as a StandardScaler or a ColumnTransformer.
    """

    transformer: Any

    def apply(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the features that scikit-learn makes of the sample.

        Raises:
            PublishError: The transformer does not take it.
        """
        columns = to_columns(sample)
        try:
            features = self.transformer.transform(join_columns(columns, self.transformer))
        except (ValueError, TypeError) as error:
            raise refused_by(self.transformer, columns, error) from error
        if hasattr(features, "toarray"):
            features = features.toarray()
        return {_FEATURES: np.asarray(features, np.float32)}

    def join(self, head: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
        """Returns the graph that makes features of columns."""
        opset = next(known.version for known in head.opset_import if not known.domain)
        columns = as_fitted(to_columns(sample), self.transformer)
        front = to_graph(self.transformer, columns, [_FEATURES], opset=opset)
        front = onnx.compose.add_prefix(
            front, "columns/", rename_inputs=False, rename_outputs=False
        )
        # A column may have the name of any tensor within.
        head = onnx.compose.add_prefix(head, "network/", rename_inputs=False, rename_outputs=False)
        front.ir_version = head.ir_version
        for name, array in sample.items():
            if array.dtype == np.float64:
                _take_double(front.graph, name)
        return onnx.compose.merge_models(front, head, io_map=[(_FEATURES, _FEATURES)])


def _take_double(graph: onnx.GraphProto, name: str) -> None:
    """Has an input of float32 (n, 1) take float64, which is rounded before anything else."""
    single = f"{name}/single"
    rename_input(graph, name, single)
    (value,) = (each for each in graph.input if each.name == single)
    value.name, value.type.tensor_type.elem_type = name, TensorProto.DOUBLE
    put_first(graph, [helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT)])


def as_preprocess(given: Pixels | Texts | Columns | Mapping[str, Any] | None) -> Preprocess | None:
    """Returns what was given, and of timm's configuration of a model the same as `Pixels`.

    Raises:
        PublishError: The configuration asks for what there is not.
    """
    if given is None or isinstance(given, Pixels | Texts | Columns):
        return given
    if not isinstance(given, Mapping):
        raise PublishError(
            f"preprocess is a {type(given).__name__}; give Pixels, Texts, Columns, or the dict "
            "that timm.data.resolve_model_data_config gives"
        )
    missing = {"input_size", "mean", "std"} - given.keys()
    if missing:
        raise PublishError(
            f"preprocess has no {', '.join(sorted(missing))}; a dict is read as timm's, such as "
            "timm.data.resolve_model_data_config(model)"
        )
    mode, share = given.get("crop_mode") or "center", float(given.get("crop_pct") or 1)
    if mode not in _TIMM_MODES or (mode == "squash" and share != 1):
        raise PublishError(
            f"timm's crop_mode {mode!r} with crop_pct {share:g} is not to be had; there are "
            "center, and squash with crop_pct 1"
        )
    _, height, width = given["input_size"]
    return Pixels(
        size=(height, width),
        resize=_TIMM_MODES[mode],
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
        crop=share if mode == "center" else 1.0,
        filter=given.get("interpolation") or Filter.BILINEAR,
    )


def is_pictures(array: Array) -> bool:
    """Whether an array is of pictures: uint8 (n, height, width, 1 or 3)."""
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3)
