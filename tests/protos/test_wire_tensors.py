import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import DTypeLike

from forwardpass.v1 import tensor_pb2
from forwardpass.wire import MAX_RANK, Array, TensorError, from_tensor, to_tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
NUMBERS = ["?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"]


def over_the_wire(array: Any) -> Array:
    return from_tensor(tensor_pb2.Tensor.FromString(to_tensor(array).SerializeToString()))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(draw(st.sampled_from("<>")))
    array: Array = draw(hnp.arrays(dtype, draw(SHAPES)))
    return array.T if draw(st.booleans()) else array


@given(arrays())
def test_numbers_come_back_bit_for_bit(array: Array) -> None:
    back = over_the_wire(array)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.tobytes() == array.astype(back.dtype).tobytes()


@given(hnp.arrays(np.uint16, SHAPES))
def test_bfloat16_comes_back_bit_for_bit(bits: Array) -> None:
    array = bits.view(ml_dtypes.bfloat16)
    back = over_the_wire(array)
    assert back.dtype == ml_dtypes.bfloat16
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.text()), st.booleans())
def test_strings_come_back_as_bytes(texts: list[str], as_column: bool) -> None:
    array = np.array([*texts, None], dtype=object)[:-1]
    back = over_the_wire(array.reshape(-1, 1) if as_column else array)
    assert back.shape == ((len(texts), 1) if as_column else (len(texts),))
    assert [item.decode() for item in back.ravel()] == texts


@given(st.lists(st.binary()))
def test_bytes_come_back_as_they_were(items: list[bytes]) -> None:
    assert over_the_wire(np.array([*items, None], dtype=object)[:-1]).tolist() == items


def test_a_list_of_texts_keeps_its_trailing_nuls() -> None:
    assert over_the_wire(["a\0", "\0"]).tolist() == [b"a\0", b"\0"]


def test_decoding_does_not_copy() -> None:
    tensor = to_tensor(np.zeros(1 << 20, np.float32))
    content = tensor.content
    tracemalloc.start()
    array = from_tensor(tensor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes == len(content)
    # One copy may come from protobuf handing out its bytes; a second would be ours.
    assert peak < 1.5 * array.nbytes
    assert not array.flags.writeable


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]"])
def test_what_no_tensor_can_hold_is_refused(dtype: DTypeLike) -> None:
    with pytest.raises(TypeError, match="a tensor cannot hold"):
        to_tensor(np.zeros(2, dtype))


def test_objects_that_are_no_text_are_refused() -> None:
    with pytest.raises(TypeError, match="may hold str or bytes, got int"):
        to_tensor(np.array([1, "a"], dtype=object))


FLOAT, STRING, BOOL = (
    tensor_pb2.DATA_TYPE_FLOAT32,
    tensor_pb2.DATA_TYPE_STRING,
    tensor_pb2.DATA_TYPE_BOOL,
)


@pytest.mark.parametrize(
    ("data_type", "shape", "content", "message"),
    [
        (FLOAT, [-1, 4], b"", "negative extent"),
        (FLOAT, [-(2**63)], b"", "negative extent"),
        (FLOAT, [2**63 - 1], b"", "takes 36893488147419103228 bytes, got 0"),
        (FLOAT, [2**33, 2**33], b"", "takes 295147905179352825856 bytes, got 0"),
        (FLOAT, [2**31], b"0123456789abcdef", "takes 8589934592 bytes, got 16"),
        (FLOAT, [2**62, 4, 0], b"", "too large"),
        (FLOAT, [1] * (MAX_RANK + 1), b"0123", "33 axes"),
        (FLOAT, [1] * 1_000_000, b"0123", "1000000 axes"),
        (FLOAT, [1, 8], bytes(36), "takes 32 bytes, got 36"),
        (FLOAT, [1, 8], bytes(28), "takes 32 bytes, got 28"),
        (FLOAT, [1, 8], bytes(31), "takes 32 bytes, got 31"),
        (BOOL, [2], b"\x01\x02", "0 or 1"),
        (tensor_pb2.DATA_TYPE_UNSPECIFIED, [1], b"\0", "data type 0"),
        (99, [1], b"\0", "data type 99"),
        (STRING, [1], b"\xff\xff\xff\xff", "a string of 4294967295 bytes"),
        (STRING, [1], b"\x05\0\0\0abc", "a string of 5 bytes, but only 3"),
        (STRING, [1], b"\x01\0\0\0a\0\0", "2 bytes after the last string"),
        (STRING, [2], b"\x01\0\0\0a", "takes 2 strings, got 1"),
        (STRING, [1], b"\x01\0\0\0a\x01\0\0\0b", "takes 1 strings, got 2"),
        (STRING, [2**40], bytes(64), "takes 1099511627776 strings, got 16"),
        (STRING, [-1], b"", "negative extent"),
    ],
)
def test_a_hostile_tensor_is_refused_before_anything_is_allocated(
    data_type: Any, shape: list[int], content: bytes, message: str
) -> None:
    tensor = tensor_pb2.Tensor(data_type=data_type, shape=shape, content=content)
    tracemalloc.start()
    try:
        with pytest.raises(TensorError, match=message):
            from_tensor(tensor)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_scalar_and_an_empty_tensor_pass() -> None:
    assert over_the_wire(np.float32(3)).shape == ()
    assert over_the_wire(np.zeros((0, 4), np.float32)).shape == (0, 4)
