"""Taking a long field out of a message leaves what a parser makes of it as it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.v1.inference_service_pb2 import EmbedRequest, EmbedStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.v1.tensor_pb2 import DATA_TYPE_UINT8, Tensor
from forwardpass.wire import TensorError, from_tensor, to_tensor
from forwardpass.wire.fields import length_delimited, take_out

PATH = (
    EmbedStreamRequest.REQUEST_FIELD_NUMBER,
    EmbedRequest.INPUTS_FIELD_NUMBER,
    2,  # the value of a map's entry
    Tensor.CONTENT_FIELD_NUMBER,
)
PIXELS = np.arange(600, dtype=np.uint8).reshape(2, 300)


def request(**inputs: Tensor) -> EmbedStreamRequest:
    return EmbedStreamRequest(
        request=EmbedRequest(
            model=ModelReference(name="net", version=7), inputs=inputs, normalize=True
        )
    )


def put_back(rest: bytes, content: bytes) -> EmbedStreamRequest:
    whole = EmbedStreamRequest.FromString(rest)
    (name,) = whole.request.inputs
    assert not whole.request.inputs[name].content
    whole.request.inputs[name].content = content
    return whole


@given(
    st.lists(st.integers(0, 2**40)), st.binary(min_size=1), st.text(max_size=9), st.text(max_size=9)
)
def test_what_is_left_and_what_was_taken_are_the_message(
    shape: list[int], content: bytes, name: str, output: str
) -> None:
    sent = request(x=Tensor(data_type=DATA_TYPE_UINT8, shape=shape, content=content))
    sent.request.model.name, sent.request.output = name, output
    message = sent.SerializeToString()
    taken = take_out(memoryview(message), PATH)
    assert taken is not None
    rest, begin, end = taken
    assert put_back(rest, message[begin:end]) == sent


def test_what_was_taken_is_not_copied() -> None:
    message = request(x=to_tensor(PIXELS)).SerializeToString()
    taken = take_out(memoryview(message), PATH)
    assert taken is not None
    rest, begin, end = taken
    left = EmbedStreamRequest.FromString(rest).request.inputs["x"]
    array = from_tensor(left, memoryview(message)[begin:end])
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))
    assert np.array_equal(array, PIXELS)


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


def test_taken_content_is_held_to_the_shape() -> None:
    tensor = Tensor(data_type=DATA_TYPE_UINT8, shape=[2, 300])
    with pytest.raises(TensorError, match="takes 600 bytes, got 599"):
        from_tensor(tensor, memoryview(bytes(599)))


def test_strings_are_read_from_what_was_taken() -> None:
    array = np.array(["a", "bc"], dtype=object)
    tensor = to_tensor(array)
    content = memoryview(tensor.content)
    tensor.ClearField("content")
    assert from_tensor(tensor, content).tolist() == [b"a", b"bc"]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        request().SerializeToString(),
        # Which of two inputs it would be of, only a parser can tell.
        request(x=to_tensor(PIXELS), y=to_tensor(PIXELS)).SerializeToString(),
        # A parser takes the last of two, or merges them.
        2 * request(x=to_tensor(PIXELS)).SerializeToString(),
        request(x=to_tensor(PIXELS)).SerializeToString()
        + EmbedStreamRequest(request=EmbedRequest(output="last")).SerializeToString(),
        # More fields than are walked.
        request(x=to_tensor(PIXELS)).SerializeToString() + 64 * length_delimited(9, b""),
        # No messages at all.
        request(x=to_tensor(PIXELS)).SerializeToString()[:-1],
        length_delimited(1, b"\xff" * 40),
        b"\x0b\x0c",
        b"\x80" * 20,
    ],
)
def test_the_rest_is_left_to_the_parser(message: bytes) -> None:
    assert take_out(memoryview(message), PATH) is None


@given(st.binary(max_size=200))
def test_whatever_comes_is_taken_apart_or_left(message: bytes) -> None:
    taken = take_out(memoryview(message), PATH)
    assert taken is None or len(taken[0]) + taken[2] - taken[1] <= len(message)
