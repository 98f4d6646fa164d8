"""Columns as scikit-learn takes them, and what skl2onnx makes of what was fitted to them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import ArrayLike

from forwardpass.trainer.errors import PublishError
from forwardpass.wire import Array

T = TypeVar("T")

_SUPPORTED = "https://onnx.ai/sklearn-onnx/supported.html"
_TYPES = {"f": "FloatTensorType", "i": "Int64TensorType", "O": "StringTensorType"}


def to_columns(sample: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the arrays with two axes, and of types that skl2onnx has: a column is (n, 1).

    Raises:
        PublishError: An array is of another type, or has more axes.
    """
    columns = {}
    for name, array in sample.items():
        kind = "i" if array.dtype.kind in "bu" else array.dtype.kind
        if kind not in _TYPES or array.ndim not in (1, 2):
            raise PublishError(
                f"input {name!r} is {shape_text(array)}; scikit-learn's columns are numbers or "
                "strings, (n) or (n, columns)"
            )
        dtype = {"f": np.float32, "i": np.int64, "O": object}[kind]
        columns[name] = array.reshape(len(array), -1).astype(dtype)
    return columns


def join_columns(columns: Mapping[str, Array], estimator: Any) -> Any:
    """Returns the columns as the estimator was fitted to them: an array, or a data frame.

    Raises:
        PublishError: It was fitted to columns of other names.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or len(columns) == 1 != len(names):
        return np.concatenate([*columns.values()], axis=1)
    if set(names) != columns.keys():
        raise PublishError(
            f"the estimator was fitted to the columns {', '.join(names)}; the sample has "
            f"{', '.join(columns)}"
        )
    # Not among what the trainer needs: whoever fitted an estimator to named columns has it.
    pandas = import_module("pandas")
    return pandas.DataFrame({name: columns[name][:, 0] for name in names})


def to_graph(
    estimator: Any,
    columns: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    opset: int | None = None,
) -> onnx.ModelProto:
    """Returns skl2onnx's graph of a fitted estimator; class probabilities are a plain tensor.

    Args:
        estimator: Fitted.
        columns: As `to_columns` gives them.
        outputs: What to call what it gives.
        opset: Of the operators; None for the newest that skl2onnx knows.

    Raises:
        PublishError: skl2onnx does not know it, or a part of it.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common import data_types

    types = [
        (name, getattr(data_types, _TYPES[array.dtype.kind])([None, array.shape[1]]))
        for name, array in columns.items()
    ]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    return convert(
        estimator,
        lambda: to_onnx(
            estimator,
            initial_types=types,
            final_types=[(name, None) for name in outputs],
            options=options,
            target_opset=opset and {"": opset, "ai.onnx.ml": 3},
        ),
    )


def convert(estimator: Any, make: Callable[[], T]) -> T:
    """Returns what skl2onnx makes of an estimator.

    Raises:
        PublishError: It does not know it, or a part of it.
    """
    try:
        return make()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PublishError(
            f"scikit-learn's {type(estimator).__name__} cannot be turned into ONNX: {said}. "
            f"Replace that part by one that skl2onnx knows: {_SUPPORTED}"
        ) from error


def shape_text(array: Array) -> str:
    """Returns type and extents of an array, such as "float32 (n, 4)"."""
    kind = "string" if array.dtype.kind == "O" else array.dtype.name
    return f"{kind} ({', '.join(['n', *map(str, array.shape[1:])])})" if array.ndim else kind


def to_array(values: ArrayLike) -> Array:
    """Returns an array as the contract has it: texts are objects."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "UST" else array
