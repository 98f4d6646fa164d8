"""Arrays that begin where every run finds them alike, whatever they were sent beside.

ONNX Runtime takes a caller's array where it lies. Its reductions add the first elements one by one,
up to an address that whole vectors can be loaded from. So the order of a sum depends on the
address, and the last bits of an answer with it: an id one character longer would change them.
"""

import threading
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from forwardpass.wire import Array

# In bytes, as ONNX Runtime's own buffers: the length of the longest vector.
ALIGNMENT = 64
# A thread keeps memory for what it gathers, up to so many bytes; more is asked for anew.
_KEPT_BYTES = 1 << 20


class Aligned(dict[str, Array]):
    """Inputs of a run, every array of which is known to begin at a multiple of ALIGNMENT."""

    __slots__ = ()


class _Kept(threading.local):
    """Memory of one thread, for the inputs of one run after the other."""

    def __init__(self) -> None:
        self.bytes = memoryview(bytearray())


_kept = _Kept()


def empty_aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Returns an aligned array, contiguous, of elements that are yet to be written."""
    memory = _empty_bytes(prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, memory)


def align(inputs: Mapping[str, Array]) -> Aligned:
    """Returns the inputs, copied where they are not aligned or not contiguous."""
    if isinstance(inputs, Aligned):
        return inputs
    return Aligned({name: _aligned(array) for name, array in inputs.items()})


def concatenate_aligned(arrays: Sequence[Array]) -> Array:
    """Returns arrays that differ in rows only, joined along axis 0."""
    first = arrays[0]
    if first.dtype.hasobject:
        return np.concatenate(arrays)
    joined = empty_aligned((sum(map(len, arrays)), *first.shape[1:]), first.dtype)
    return np.concatenate(arrays, out=joined)


def copy_aligned(part: memoryview) -> memoryview:
    """Returns bytes that begin with those given; valid as long as those of `join_aligned`."""
    size = len(part)
    copy = _kept.bytes
    if size > len(copy):
        copy = _keep(size)
    copy[:size] = part
    return copy


def join_aligned(parts: Sequence[memoryview]) -> memoryview:
    """Returns bytes that begin with those of parts of one length, one part behind the other.

    They are valid until the same thread joins or copies others: until then it makes one run with
    them.
    """
    size = len(parts[0])
    whole = size * len(parts)
    joined = _kept.bytes
    if whole > len(joined):
        joined = _keep(whole)
    end = 0
    for part in parts:
        begin, end = end, end + size
        joined[begin:end] = part
    return joined


def _keep(size: int) -> memoryview:
    """Returns new memory, which the thread keeps where it is little."""
    memory = _empty_bytes(size)
    if size <= _KEPT_BYTES:
        _kept.bytes = memory
    return memory


def _empty_bytes(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -_address(memory) % ALIGNMENT
    return memory[begin : begin + size].data


def _aligned(array: Array) -> Array:
    # Elements of Python's are copied into the runtime's own strings.
    if array.dtype.hasobject or (array.flags.c_contiguous and not _address(array) % ALIGNMENT):
        return array
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
