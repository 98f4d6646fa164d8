"""Tensors whose elements lie elsewhere, such as in the bytes of a request."""

import numpy as np
import pytest

from forwardpass.v1.tensor_pb2 import DATA_TYPE_UINT8, Tensor
from forwardpass.wire import TensorError, from_tensor, to_tensor


def test_elements_elsewhere_are_not_copied() -> None:
    pixels = np.arange(600, dtype=np.uint8).reshape(2, 300)
    message = b"before" + pixels.tobytes() + b"behind"
    array = from_tensor(
        Tensor(data_type=DATA_TYPE_UINT8, shape=[2, 300]), memoryview(message)[6:606]
    )
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))
    assert np.array_equal(array, pixels)


@pytest.mark.parametrize("before", range(8))
def test_elements_at_an_odd_address_are_aligned(before: int) -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    message = bytes(before) + array.tobytes()
    tensor = to_tensor(array)
    tensor.ClearField("content")
    back = from_tensor(tensor, memoryview(message)[before:])
    assert back.flags.aligned
    assert not back.flags.writeable
    assert np.array_equal(back, array)


def test_elements_elsewhere_are_held_to_the_shape() -> None:
    tensor = Tensor(data_type=DATA_TYPE_UINT8, shape=[2, 300])
    with pytest.raises(TensorError, match="takes 600 bytes, got 599"):
        from_tensor(tensor, memoryview(bytes(599)))


def test_strings_are_read_where_they_lie() -> None:
    array = np.array(["a", "bc"], dtype=object)
    tensor = to_tensor(array)
    content = memoryview(tensor.content)
    tensor.ClearField("content")
    assert from_tensor(tensor, content).tolist() == [b"a", b"bc"]
