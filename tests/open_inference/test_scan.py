"""The scan that precedes parsing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardpass.server.errors import InvalidInput
from forwardpass.server.rpc.scan import MAX_BYTES, Field, Layout, scan, without
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.tensor_pb2 import Tensor
from forwardpass.wire.fields import length_delimited

from .calls import new

INSIDE = Layout({2: Field("crumbs", 3), 3: Field("content", 2, payload=True)})
LAYOUT = Layout({5: Field("parts", 3, inside=INSIDE), 7: Field("raw", 2, payload=True)})


def test_payload_is_found_and_cut_out() -> None:
    request = new("ModelInferRequest", model_name="m", id="7", raw_input_contents=[b"abc", b""])
    request.inputs.add(name="x", shape=[3])
    message = request.SerializeToString()
    spans = scan(message, LAYOUT)
    assert [message[begin:end] for _, begin, end in spans] == [b"abc", b""]
    del request.raw_input_contents[:]
    assert without(message, spans) == request.SerializeToString()
    assert without(b"abc", []) == b"abc"


def test_payload_between_other_fields_is_cut_out_too() -> None:
    first, second = length_delimited(7, b"x" * 300), length_delimited(7, b"y")
    name, part = length_delimited(1, b"m"), length_delimited(5, b"")
    message = first + name + second + part
    spans = scan(message, LAYOUT)
    assert [message[begin:end] for _, begin, end in spans] == [b"x" * 300, b"y"]
    assert without(message, spans) == name + part


def test_fields_that_come_too_often_are_refused() -> None:
    part = length_delimited(5, b"")
    assert scan(part * 3, LAYOUT) == []
    with pytest.raises(InvalidInput, match="more than 3 parts, the most of a request"):
        scan(part * 4, LAYOUT)
    with pytest.raises(InvalidInput, match="more than 256 other fields"):
        scan(length_delimited(9, b"") * 257, LAYOUT)


def test_only_long_fields_are_looked_into() -> None:
    crumbs = length_delimited(2, b"") * 4
    assert scan(length_delimited(5, crumbs), LAYOUT) == []
    with pytest.raises(InvalidInput, match="more than 3 crumbs"):
        scan(length_delimited(5, crumbs + length_delimited(3, bytes(1024))), LAYOUT)


def test_all_but_payload_together_is_bounded() -> None:
    assert scan(length_delimited(7, bytes(MAX_BYTES + 100)), LAYOUT)
    inside = length_delimited(5, length_delimited(3, bytes(MAX_BYTES + 100)))
    assert scan(inside, LAYOUT) == []
    with pytest.raises(InvalidInput, match="may have 4194304"):
        scan(length_delimited(1, bytes(MAX_BYTES)), LAYOUT)


def test_a_native_request_is_scanned_with_a_layout_of_its_own() -> None:
    tensor = Layout({3: Field("content", 1, payload=True)})
    entry = Layout({2: Field("tensor", 1, inside=tensor)})
    layout = Layout({2: Field("inputs", 64, inside=entry)})
    request = PredictRequest(inputs={"x": Tensor(shape=[1], content=bytes(MAX_BYTES))})
    assert scan(request.SerializeToString(), layout) == []
    request.texts.append("x" * MAX_BYTES)
    with pytest.raises(InvalidInput, match="beside the elements of tensors"):
        scan(request.SerializeToString(), layout)


@pytest.mark.parametrize(
    "message",
    [
        b"\x3a",  # A length is missing,
        b"\x3a\x05abc",  # or longer than what is left.
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\xff" * 20,  # No number is so long.
        b"\x0b" * 100_000,  # Groups.
        b"\x09abc",  # Eight bytes,
        b"\x0da",  # or four.
        b"\x08",
        length_delimited(5, bytes([0x1A]) * 1100),
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidInput):
        scan(message, LAYOUT)


@given(st.binary(max_size=2000))
def test_any_bytes_are_scanned_or_refused(message: bytes) -> None:
    try:
        spans = scan(message, LAYOUT)
    except InvalidInput:
        return
    assert all(begin <= start <= end <= len(message) for begin, start, end in spans)
    rest = without(message, spans)
    assert len(rest) + sum(end - begin for begin, _, end in spans) == len(message)
