"""Columns as scikit-learn takes them, and what skl2onnx makes of what was fitted to them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.surgery import put_first, rename_input
from forwardpass.wire import Array

T = TypeVar("T")

# What columns are, joined into one table.
_TABLE = "columns_joined"

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


def as_fitted(columns: Mapping[str, Array], estimator: Any) -> dict[str, Array]:
    """Returns the columns in the order in which the estimator was fitted to them.

    Raises:
        PublishError: It was fitted to columns of other names.
    """
    names = _fitted_names(columns, estimator)
    if set(names) != columns.keys():
        raise PublishError(
            f"the estimator was fitted to the columns {', '.join(names)}; the sample has "
            f"{', '.join(columns)}"
        )
    return {name: columns[name] for name in names}


def _fitted_names(columns: Mapping[str, Array], estimator: Any) -> list[str]:
    """Returns the names that an estimator knows of its columns; theirs where it knows none."""
    names = getattr(estimator, "feature_names_in_", None)
    # One array may have all columns.
    return list(columns) if names is None or len(columns) == 1 else list(names)


def join_columns(columns: Mapping[str, Array], estimator: Any) -> Any:
    """Returns what the estimator takes: an array, or a data frame if it was fitted to one.

    Raises:
        PublishError: It was fitted to columns of other names.
    """
    ordered = as_fitted(columns, estimator)
    if getattr(estimator, "feature_names_in_", None) is None or any(
        array.shape[1] != 1 for array in ordered.values()
    ):
        return np.concatenate([*ordered.values()], axis=1)
    # Not among what the trainer needs: whoever fitted an estimator to named columns has it.
    pandas = import_module("pandas")
    return pandas.DataFrame({name: array[:, 0] for name, array in ordered.items()})


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

    if len(columns) > 1 and not _takes_columns(estimator):
        return _join_graph(estimator, columns, outputs, opset)
    # skl2onnx changes names that are no identifiers, and may call a tensor within as a column is; a
    # transformer that chooses columns by their names has to find those.
    by_name = getattr(estimator, "feature_names_in_", None) is not None
    plain = {name: name if by_name else f"input_{at}" for at, name in enumerate(columns)}
    types = [
        (plain[name], getattr(data_types, _TYPES[array.dtype.kind])([None, array.shape[1]]))
        for name, array in columns.items()
    ]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    model = convert(
        estimator,
        lambda: to_onnx(
            estimator,
            initial_types=types,
            final_types=[(name, None) for name in outputs],
            options=options,
            target_opset=opset and {"": opset, "ai.onnx.ml": 3},
        ),
    )
    model = onnx.compose.add_prefix(model, "estimator/", rename_inputs=False, rename_outputs=False)
    for name, given in plain.items():
        rename_input(model.graph, given, name)
    return model


def _takes_columns(estimator: Any) -> bool:
    """Whether an estimator tells columns apart, before anything else is done to them."""
    first = estimator[0] if isinstance(estimator, Pipeline) else estimator
    return isinstance(first, ColumnTransformer)


def _join_graph(
    estimator: Any, columns: Mapping[str, Array], outputs: Sequence[str], opset: int | None
) -> onnx.ModelProto:
    """Returns the graph of an estimator that takes all columns as one table, of one type."""
    kinds = {array.dtype.kind == "O" for array in columns.values()}
    if len(kinds) > 1:
        raise PublishError(
            f"scikit-learn's {type(estimator).__name__} takes all columns alike, and some are "
            "numbers and some strings; begin the pipeline with a ColumnTransformer"
        )
    joined = np.concatenate([*columns.values()], axis=1)
    if joined.dtype.kind != "O":
        joined = joined.astype(np.float32)
    model = to_graph(estimator, {_TABLE: joined}, outputs, opset=opset)
    same = {name: f"{_TABLE}/{name}" for name in columns}
    to = helper.np_dtype_to_tensor_dtype(joined.dtype)
    nodes = [helper.make_node("Cast", [name], [new], to=to) for name, new in same.items()]
    put_first(
        model.graph,
        [*nodes, helper.make_node("Concat", [*same.values()], [_TABLE], axis=1)],
    )
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), [None, array.shape[1]]
        )
        for name, array in columns.items()
    )
    if not any(not known.domain for known in model.opset_import):
        newest = helper.make_opsetid("", opset or onnx.defs.onnx_opset_version())
        model.opset_import.append(newest)
    return model


def convert(estimator: Any, make: Callable[[], T]) -> T:
    """Returns what skl2onnx makes of an estimator.

    Raises:
        PublishError: It does not know it, or a part of it.
    """
    try:
        return make()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError) as error:
        raise PublishError(
            f"scikit-learn's {type(estimator).__name__} cannot be turned into ONNX: "
            f"{first_line(error)}. Replace that part by one that skl2onnx knows: {_SUPPORTED}"
        ) from error


def refused_by(estimator: Any, inputs: Mapping[str, Array], error: Exception) -> PublishError:
    """Returns what to say where an estimator does not take the sample.

    Args:
        estimator: scikit-learn's.
        inputs: What it was given.
        error: What it said.
    """
    shapes = ", ".join(f"{name} {shape_text(array)}" for name, array in inputs.items())
    has_texts = any(array.dtype.kind == "O" for array in inputs.values())
    hint = ". A pipeline of texts begins with a CountVectorizer or TfidfVectorizer"
    return PublishError(
        f"scikit-learn's {type(estimator).__name__} does not take the sample, {shapes}: "
        f"{first_line(error)}{hint if has_texts else ''}"
    )


def first_line(error: Exception) -> str:
    """Returns the first line of what an error says, without a full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def shape_text(array: Array) -> str:
    """Returns type and extents of an array, such as "float32 (n, 4)"."""
    kind = "string" if array.dtype.kind == "O" else array.dtype.name
    return f"{kind} ({', '.join(['n', *map(str, array.shape[1:])])})" if array.ndim else kind


def to_array(values: ArrayLike) -> Array:
    """Returns an array as the contract has it: texts are objects."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "UST" else array
