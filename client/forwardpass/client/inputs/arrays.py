"""Whatever holds numbers or texts, as a numpy array."""

import reprlib
import sys
from typing import Any, Never

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from forwardpass.client.inputs.arrow import missing, of_arrow
from forwardpass.client.inputs.frames import is_column, is_frame, is_pandas_column
from forwardpass.client.inputs.libraries import is_instance
from forwardpass.wire import Array, element_type

# What lists hold where they hold no arrays.
_PLAIN = (bool, int, float, complex, str, bytes, np.generic, type(None))
_NUMBERS = (int, float)


def as_array(value: object) -> Array:
    """Returns the values of an array of any library, or of a list of numbers, texts or arrays.

    Missing values are refused, as a tensor has none: nulls of Arrow, polars and pandas' own dtypes,
    None in lists, and what is masked. They do not become NaN, which most models answer with NaN,
    or with a class like any other. NaN itself is a float, and stays.

    Args:
        value: An array of numpy, torch (of any device), Arrow, or any library whose arrays have
            `__array__` or `__dlpack__`; a column of pandas or polars; or a list of numbers, texts
            or such arrays, to any depth.

    Returns:
        Numbers with the dtype they have, and texts as an array of objects.

    Raises:
        TypeError: It holds no numbers and no texts, or numbers that no tensor can hold.
        ValueError: Values are missing, or rows differ in shape.
    """
    if isinstance(value, list | tuple):
        return _of_list(value)
    try:
        array = value if type(value) is np.ndarray else _converted(value)
    except (MemoryError, TypeError, ValueError):
        raise
    except Exception as error:  # noqa: BLE001  # libraries have classes of their own
        raise ValueError(f"{_type_name(value)} gives no array: {error}") from None
    if array.dtype.kind == "O":
        return _of_objects(array, value)
    element_type(array.dtype)  # or it raises
    return array


def is_array(value: object) -> bool:
    """Whether a value is an array of some library, and no list, data frame or column."""
    return (hasattr(value, "__array__") or hasattr(value, "__dlpack__")) and not (
        is_frame(value) or is_column(value)
    )


def _converted(value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray) and (count := int(np.ma.getmaskarray(value).sum())):
        raise ValueError(missing(count, "filled"))
    if is_instance(value, "torch", "Tensor"):
        return _of_torch(value)
    if is_instance(value, "pyarrow", "Array", "ChunkedArray"):
        return of_arrow(value)
    if is_pandas_column(value):
        return _of_pandas(value)
    if is_instance(value, "polars", "Series"):
        return _of_polars(value)
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value, device="cpu")
    return np.asarray(value)


def _of_torch(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(
            "a tensor of torch has to be dense and of one shape: give tensor.to_dense(), or "
            "torch.nested.to_padded_tensor"
        )
    here = tensor.detach().cpu().resolve_conj().resolve_neg()
    if here.dtype == torch.bfloat16:
        # numpy has no such type of its own, so the bits go over.
        bits: NDArray[np.int16] = here.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    try:
        values: Array = here.numpy()
    except TypeError:
        raise TypeError(
            f"numpy has no type for a tensor of {here.dtype}: convert it, as tensor.float() or "
            "tensor.dequantize() does"
        ) from None
    return values


def _of_pandas(column: Any) -> Array:
    # In numpy's own dtypes nothing is missing; NaN is a float there.
    if not isinstance(column.dtype, np.dtype) and (count := int(column.isna().sum())):
        raise ValueError(missing(count, "fillna"))
    return np.asarray(column)


def _of_polars(column: Any) -> Array:
    polars = sys.modules["polars"]
    values = column
    # polars would make nulls NaN, also in lists.
    while not (count := values.null_count()) and isinstance(
        values.dtype, (polars.List, polars.Array)
    ):
        values = values.explode()
    if count:
        raise ValueError(missing(count, "fill_null"))
    if isinstance(values.dtype, polars.Struct):
        raise TypeError("a column of structs is no array: give its fields, as struct.unnest() does")
    array: Array = column.to_numpy()
    return array


def _of_objects(array: Array, value: object) -> Array:
    if _are_texts(array):
        return array
    if not array.ndim:
        raise TypeError(
            f"expected an array, a data frame, or a list of numbers or texts, got "
            f"{_type_name(value)}"
        )
    # Python's own numbers, as pandas mixes them, or arrays in the cells of a column.
    return _of_list(array.tolist())


def _of_list(values: list[Any] | tuple[Any, ...]) -> Array:
    if _holds_arrays(values):
        return _stacked(values)
    try:
        array = np.asarray(values)
    except ValueError:
        _check_even(values, "")
        raise
    if array.dtype.kind in "US":
        # numpy's own strings drop what is NUL at their ends, and make strings of numbers.
        array = np.asarray(values, object)
    if array.dtype.kind == "O":
        _check_texts(array)
    return array


def _holds_arrays(values: list[Any] | tuple[Any, ...]) -> bool:
    first: Any = values
    while isinstance(first, list | tuple):
        if not first:
            return False
        first = first[0]
    return not isinstance(first, _PLAIN)


def _stacked(values: list[Any] | tuple[Any, ...]) -> Array:
    rows: list[Array] = []
    for place, value in enumerate(values):
        try:
            rows.append(as_array(value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"row [{place}]: {error}") from None
        if rows[-1].shape != rows[0].shape:
            _refuse_row(f"[{place}]", rows[-1].shape, "[0]", rows[0].shape)
    array = np.stack(rows)
    if array.dtype.kind == "O":
        _check_texts(array)
    return array


def _check_even(values: list[Any] | tuple[Any, ...], path: str) -> None:
    """Raises ValueError at the first of nested lists whose shape differs from its neighbours'."""
    shapes = []
    for place, row in enumerate(values):
        try:
            shapes.append(np.shape(row))
        except ValueError:
            _check_even(row, f"{path}[{place}]")
            raise
        if shapes[-1] != shapes[0]:
            _refuse_row(f"{path}[{place}]", shapes[-1], f"{path}[0]", shapes[0])


def _refuse_row(
    place: str, shape: tuple[int, ...], other_place: str, other_shape: tuple[int, ...]
) -> Never:
    raise ValueError(
        f"row {place} has shape {shape}, and row {other_place} has {other_shape}: all rows have "
        "the same shape; pad them or send them in calls of their own"
    )


def _check_texts(array: Array) -> None:
    if _are_texts(array):
        return
    others = [
        place for place in np.ndindex(array.shape) if not isinstance(array[place], str | bytes)
    ]
    # What is missing, or otherwise strange, tells more than a number beside it.
    place = next((place for place in others if not isinstance(array[place], _NUMBERS)), others[0])
    at = "".join(f"[{index}]" for index in place)
    item = array[place]
    raise TypeError(
        f"row {at} holds {reprlib.repr(item)} ({_type_name(item)}), expected numbers of at most 64 "
        "bits or texts, not both, and nothing that is missing"
    )


def _are_texts(array: Array) -> bool:
    return all(isinstance(item, str | bytes) for item in array.flat)


def _type_name(value: object) -> str:
    return type(value).__name__
