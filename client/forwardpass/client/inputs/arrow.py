"""Arrow's columns as arrays."""

import sys
from typing import Any

import numpy as np

from forwardpass.wire import Array


def of_arrow(column: Any) -> Array:
    """Returns the values of a `pyarrow.Array` or `ChunkedArray`.

    Args:
        column: Numbers, booleans, text or bytes, (rows,); lists of the same length give
            (rows, length), and tensors of a fixed shape (rows, *shape).

    Raises:
        ValueError: It holds nulls, or lists of several lengths.
    """
    chunks = getattr(column, "chunks", None)
    if chunks is None:
        return _of_chunk(column)
    return np.concatenate(
        [_of_chunk(chunk) for chunk in chunks]
        or [_of_chunk(sys.modules["pyarrow"].array([], column.type))]
    )


def _of_chunk(column: Any) -> Array:
    types = sys.modules["pyarrow"].types
    kind = column.type
    if column.null_count:
        raise ValueError(missing(column.null_count, "fill_null"))
    if hasattr(column, "to_numpy_ndarray"):
        tensors: Array = column.to_numpy_ndarray()
        return tensors
    if hasattr(column, "storage"):
        return _of_chunk(column.storage)
    if types.is_dictionary(kind):
        return _of_chunk(column.dictionary_decode())
    if types.is_fixed_size_list(kind):
        return _of_lists(column, kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = column.value_lengths().to_numpy()
        uneven = np.flatnonzero(lengths != lengths[:1])
        if uneven.size:
            row = uneven[0]
            raise ValueError(
                f"row {row} is a list of {lengths[row]} and row 0 of {lengths[0]}: all rows have "
                "the same length; pad them or send them in calls of their own"
            )
        return _of_lists(column, lengths[0] if len(lengths) else 0)
    if types.is_nested(kind):
        raise TypeError(
            f"a column of {kind} is no array: cast it to numbers, texts, list or fixed_size_list"
        )
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _of_lists(column: Any, length: int) -> Array:
    # The lists' own values, from where a slice begins.
    values = _of_chunk(column.flatten())
    return values.reshape(len(column), length, *values.shape[1:])


def missing(count: int, remedy: str) -> str:
    """Returns why a column with missing values is refused, and what to do."""
    return (
        f"{count} missing {'value' if count == 1 else 'values'}, and a tensor has no place for "
        f"them: fill them in ({remedy}) or drop their rows; NaN, where a float input is meant to "
        "take it, is written as such"
    )
