"""Casts to the dtype that a model states, which change no value but by rounding."""

from typing import Any

import ml_dtypes
import numpy as np

from forwardpass.wire import DTYPES, Array

_DTYPE_BY_NAME = {kind.name: kind.dtype for kind in DTYPES.values()}
# What Python, numpy, pandas and Arrow choose where nobody has: it says nothing of what was meant.
_BY_VALUE = (np.float64, np.int64, np.uint64)
# Of models of features and of pictures. Asking whether the model takes it would cost a call.
_AS_GIVEN = (np.float32, np.uint8)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def goes_as_given(array: Array) -> bool:
    """Whether an array is sent with the dtype it has, without asking what the model takes."""
    return array.dtype in _AS_GIVEN or array.dtype.kind in "USTO"


def cast(array: Array, name: str) -> Array:
    """Returns the array with the dtype that a model states.

    Numbers of 64 bits are cast where these values fit: integers stay the same, floats are rounded.
    Of any other dtype an array is cast where all values of that dtype fit (numpy's "safe").

    Args:
        array: As `as_array` gives it: numbers of any dtype, or texts.
        name: The dtype, as numpy names it; "string" for text.

    Raises:
        TypeError: It has no place for the array's dtype, or for one of its values.
    """
    dtype = _DTYPE_BY_NAME.get(name)
    if dtype is None:
        raise TypeError(f"takes {name}, which this version of the client cannot send: update it")
    if array.dtype == dtype:
        return array
    if array.size and not _fits(array.dtype, dtype):
        raise TypeError(
            f"takes {name}, but the values are {_readable(array.dtype)}: convert them yourself"
        )
    if dtype.kind == "O" or array.dtype.kind not in "iufV":
        return array.astype(dtype)
    return _checked(array, dtype, name)


def _fits(given: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "O":
        return given.kind in "USTO"
    if given in _BY_VALUE:
        return dtype.kind != "b"
    return given.kind not in "USTO" and np.can_cast(given, dtype, "safe")


def _checked(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
        # Back in the type that they came in, integers are the same, and floats within rounding:
        # numpy would cut 1.5 to 1, and 300 to 44.
        if _is_float(array.dtype) and _is_float(dtype):
            is_same = np.isfinite(converted.astype(np.float64)) == np.isfinite(array)
        else:
            is_same = _is_kept(array, converted)
    if not is_same.all():
        wrong = array[~is_same].flat[0]
        raise TypeError(f"takes {name}, in which {wrong} has no place; convert the values yourself")
    return converted


def _is_kept(array: Array, converted: Array) -> Array:
    kept: Array = converted.astype(array.dtype) == array
    # Beyond an integer's range a float becomes what the processor likes, and -1 comes back from
    # 2**64 - 1.
    for integers, numbers in ((converted, array), (array, converted)):
        if integers.dtype.kind in "iu":
            info = np.iinfo(integers.dtype)
            wide = numbers.astype(np.float64) if _is_float(numbers.dtype) else numbers
            kept &= (wide >= info.min) & (wide < info.max + 1)
    return kept


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 is of kind "V".
    return dtype.kind in "fV"


def _readable(dtype: np.dtype[Any]) -> str:
    return "texts" if dtype.kind in "USTO" else dtype.name
