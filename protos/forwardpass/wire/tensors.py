"""Arrays to tensors and back.

Decoding checks type, shape and length with Python's unbounded integers before anything is
allocated, so that a tensor that claims 2**66 elements costs its sender an error and us nothing.
"""

import math
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from forwardpass.v1 import tensor_pb2
from forwardpass.wire.dtypes import DTYPES, STRING, Array, element_type

MAX_RANK = 32
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """A tensor that contradicts itself; the message says what was expected and what came."""


def to_tensor(array: ArrayLike) -> tensor_pb2.Tensor:
    """Returns a tensor with the array's type, shape and elements.

    Elements that are not contiguous or not little-endian are copied into order first; a `str`
    is sent as UTF-8.

    Raises:
        TypeError: No tensor can hold the array's type, or an object in it is neither `str` nor
            `bytes`.
    """
    tensor = tensor_pb2.Tensor()
    fill_tensor(tensor, array)
    return tensor


def fill_tensor(tensor: tensor_pb2.Tensor, array: ArrayLike) -> None:
    """Makes an empty tensor what `to_tensor` returns; one in a message is not copied there.

    Raises:
        TypeError: As `to_tensor`.
    """
    array = _as_array(array)
    kind = element_type(array.dtype)
    if kind is STRING:
        content = _pack_strings(array)
    else:
        content = np.ascontiguousarray(array, dtype=kind.dtype).tobytes()
    tensor.data_type = kind.data_type
    tensor.shape.extend(array.shape)
    tensor.content = content


def from_tensor(tensor: tensor_pb2.Tensor, content: bytes | memoryview | None = None) -> Array:
    """Returns the tensor's elements as an array, without copying them.

    The array is read-only: it looks at the message's own bytes. Strings come as an object array
    of `bytes`.

    Args:
        tensor: The tensor.
        content: Its elements where they lie; None for those that it holds itself. Elements that
            begin at an address that is none for their type are copied.

    Raises:
        TensorError: Type unknown, more than 32 axes, a negative extent, or a length that does
            not fit the shape.
    """
    kind = DTYPES.get(tensor.data_type)
    if kind is None:
        known = ", ".join(t.name for t in DTYPES.values())
        raise TensorError(f"data type {tensor.data_type} is not one of {known}")
    extents = tensor.shape
    if len(extents) > MAX_RANK:
        raise TensorError(f"{len(extents)} axes, but a tensor has at most {MAX_RANK}")
    shape = tuple(extents)
    if shape and min(shape) < 0:
        raise TensorError(f"shape {list(shape)} has a negative extent")
    count = math.prod(shape)
    elements = tensor.content if content is None else content
    if kind is STRING:
        return _unpack_strings(bytes(elements), count).reshape(shape)
    expected = count * kind.dtype.itemsize
    if len(elements) != expected:
        raise TensorError(
            f"{kind.name} of shape {list(shape)} takes {expected} bytes, got {len(elements)}"
        )
    array = np.frombuffer(elements, kind.dtype)
    # What a message holds itself is aligned for every type.
    if content is not None and not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    if kind.dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise TensorError("a bool is one byte, 0 or 1, got another")
    try:
        return array.reshape(shape)
    except ValueError:
        # An empty tensor may still claim extents that numpy cannot index.
        raise TensorError(f"shape {list(shape)} is too large") from None


def _as_array(values: ArrayLike) -> Array:
    array = np.asarray(values)
    if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
        # numpy's own string types drop trailing NULs; objects keep them.
        return np.asarray(values, dtype=object)
    return array


def _pack_strings(array: Array) -> bytes:
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        if isinstance(item, str):
            data = item.encode()
        elif isinstance(item, bytes):
            data = item
        else:
            raise TypeError(f"an array of objects may hold str or bytes, got {type(item).__name__}")
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _unpack_strings(content: bytes, count: int) -> Array:
    # Every string takes at least the four bytes of its length.
    if count > len(content) // _LENGTH.size:
        found = sum(1 for _ in _strings(content))
        raise TensorError(f"the shape takes {count} strings, got {found}")
    strings = np.empty(count, object)
    found = 0
    for data in _strings(content):
        if found < count:
            strings[found] = data
        found += 1
    if found != count:
        raise TensorError(f"the shape takes {count} strings, got {found}")
    return strings


def _strings(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        if len(content) - at < _LENGTH.size:
            raise TensorError(f"{len(content) - at} bytes after the last string")
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if length > len(content) - at:
            raise TensorError(
                f"a string of {length} bytes, but only {len(content) - at} bytes are left"
            )
        yield content[at : at + length]
        at += length
