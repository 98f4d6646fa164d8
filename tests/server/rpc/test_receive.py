"""Bytes to requests: what is refused before it is parsed, and where the elements lie."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from open_inference.calls import new

from forwardpass.server.errors import InvalidInput
from forwardpass.server.rpc.receive import MAX_BYTES, Received, parse, receive
from forwardpass.server.rpc.schema import (
    EMBED_STREAM,
    GENERATE,
    INFER,
    PREDICT,
    PREDICT_STREAM,
    Schema,
)
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    GenerateRequest,
    PredictRequest,
    PredictStreamRequest,
)
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.v1.tensor_pb2 import DATA_TYPE_UINT8, Tensor
from forwardpass.wire import from_tensor, to_tensor
from forwardpass.wire.fields import length_delimited

LONG = PREDICT.scanned_from
PIXELS = np.arange(2 * LONG, dtype=np.uint8).reshape(2, LONG)


def predict(**inputs: Tensor) -> PredictRequest:
    return PredictRequest(model=ModelReference(name="net", version=7), inputs=inputs, top_k=3)


def contents(received: Received[Any]) -> list[bytes]:
    assert received.contents is not None
    return [received.message[begin:end] for begin, end in received.contents]


def put_back(received: Received[PredictRequest]) -> PredictRequest:
    """The request with its elements in their places again."""
    whole = PredictRequest()
    whole.CopyFrom(received.head)
    for tensor in whole.inputs.values():
        tensor.content = bytes(received.content(tensor.content))
    return whole


def test_a_short_native_request_is_parsed_as_it_is() -> None:
    request = predict(x=to_tensor(np.ones(3)))
    received = receive(PREDICT, request.SerializeToString())
    assert received.head == request
    assert received.contents is None
    assert received.content(b"abc") == b"abc"


@given(
    st.dictionaries(st.text(max_size=9), st.binary(max_size=40), max_size=5),
    st.lists(st.binary(max_size=9), max_size=3),
    st.text(max_size=9),
)
def test_what_is_detached_and_what_is_left_are_the_request(
    tensors: dict[str, bytes], images: list[bytes], name: str
) -> None:
    inputs = {key: Tensor(shape=[1, 2], content=content) for key, content in tensors.items()}
    inputs["long"] = Tensor(data_type=DATA_TYPE_UINT8, content=bytes(LONG))
    request = predict(**inputs)
    request.images.extend(images)
    request.model.name = name
    received = receive(PREDICT, request.SerializeToString())
    assert sorted(contents(received)) == sorted(
        tensor.content for tensor in inputs.values() if tensor.content
    )
    assert put_back(received) == request


def test_of_two_tensors_of_a_name_the_last_counts_as_for_a_parser() -> None:
    first, last = (predict(x=to_tensor(PIXELS + step)).SerializeToString() for step in (0, 1))
    received = receive(PREDICT, first + last)
    assert len(contents(received)) == 2
    assert put_back(received) == PredictRequest.FromString(first + last)


def test_elements_are_not_copied() -> None:
    wrapper = EmbedStreamRequest(request=EmbedRequest(inputs={"x": to_tensor(PIXELS)}))
    message = wrapper.SerializeToString()
    received = receive(EMBED_STREAM, message)
    tensor = received.head.request.inputs["x"]
    assert len(tensor.content) == 1
    array = from_tensor(tensor, received.content(tensor.content))
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))
    assert np.array_equal(array, PIXELS)


def test_latents_are_detached_too() -> None:
    request = GenerateRequest(latents=to_tensor(PIXELS))
    received = receive(GENERATE, request.SerializeToString())
    given = received.head.latents
    assert np.array_equal(from_tensor(given, received.content(given.content)), PIXELS)


def test_raw_contents_of_the_open_protocol_are_detached_from_the_first_byte() -> None:
    request = new("ModelInferRequest", model_name="m", id="7", raw_input_contents=[b"abc", b""])
    request.inputs.add(name="x", shape=[3])
    request.inputs.add(name="y", shape=[0])
    message = request.SerializeToString()
    received = receive(INFER, message)
    assert contents(received) == [b"abc", b""]
    assert [bytes(received.content(raw)) for raw in received.head.raw_input_contents] == [
        b"abc",
        b"",
    ]
    assert [message[begin:end] for begin, end in received.ids] == [b"7"]
    del request.raw_input_contents[:], received.head.raw_input_contents[:]
    assert received.head == request


def infer(**fields: Any) -> Any:
    request = new("ModelInferRequest", model_name="m", raw_input_contents=[b"abcd"], **fields)
    request.inputs.add(name="x", shape=[1], datatype="FP32")
    return request


@pytest.mark.parametrize(
    ("schema", "request_"),
    [
        (PREDICT, predict(x=to_tensor(np.arange(5)))),
        (PREDICT, predict(x=to_tensor(PIXELS))),
        (PREDICT_STREAM, PredictStreamRequest(request=predict(x=to_tensor(np.arange(5))))),
        (PREDICT_STREAM, PredictStreamRequest(request=predict(x=to_tensor(PIXELS)))),
        (INFER, infer()),
        (INFER, infer(id="abc")),
    ],
    ids=["short", "long", "short on a stream", "long on a stream", "raw", "raw with an id"],
)
def test_where_a_request_has_what_is_its_own_is_known(
    schema: Schema[Any], request_: Message
) -> None:
    message = request_.SerializeToString()
    slots = receive(schema, message).slots()
    assert slots is not None
    for begin, end in ((slots.begin, slots.end), (slots.id_begin, slots.id_end)):
        changed = message[:begin] + b"z" * (end - begin) + message[end:]
        # Nothing but the elements and the id differs, so it is such a request still.
        assert type(request_).FromString(changed).ByteSize() == len(message)
    assert message[slots.id_begin : slots.id_end] == getattr(request_, "id", "").encode()


@pytest.mark.parametrize(
    "message",
    [
        predict().SerializeToString(),
        predict(x=Tensor(shape=[0])).SerializeToString(),
        predict(x=to_tensor(PIXELS), y=to_tensor(PIXELS)).SerializeToString(),
        # A short request may have more than a long one, and is not remembered.
        predict(x=Tensor(shape=range(40), content=b"x")).SerializeToString()
        + length_delimited(99, b"") * 300,
    ],
    ids=["none", "no elements", "two tensors", "many fields"],
)
def test_a_request_without_one_tensor_has_nothing_to_remember(message: bytes) -> None:
    assert receive(PREDICT, message).slots() is None


def test_an_id_that_comes_twice_or_late_is_not_remembered() -> None:
    message = infer().SerializeToString()
    number = infer().DESCRIPTOR.fields_by_name["id"].number
    one = length_delimited(number, b"a")
    assert receive(INFER, one + message).slots() is not None
    assert receive(INFER, one + one + message).slots() is None
    assert receive(INFER, message + one).slots() is None


def test_fields_that_come_too_often_are_refused() -> None:
    request = new("ModelInferRequest")
    for index in range(64):
        request.inputs.add(name=str(index))
    message = request.SerializeToString()
    assert len(receive(INFER, message).head.inputs) == 64
    request.inputs.add(name="one more")
    with pytest.raises(InvalidInput, match="more than 64 inputs, the most of a request"):
        receive(INFER, request.SerializeToString())
    with pytest.raises(InvalidInput, match="more than 256 other fields"):
        receive(INFER, length_delimited(90, b"") * 257)


def test_only_long_fields_are_looked_into_for_what_they_count() -> None:
    request = new("ModelInferRequest")
    tensor = request.inputs.add(name="x")
    for index in range(65):
        tensor.parameters[str(index)].bool_param = True
    assert len(request.SerializeToString()) < 1024
    receive(INFER, request.SerializeToString())
    tensor.name = "x" * 1024
    with pytest.raises(InvalidInput, match="more than 64 parameters"):
        receive(INFER, request.SerializeToString())


def test_all_but_payload_together_is_bounded() -> None:
    payload = bytes(MAX_BYTES + 100)
    receive(PREDICT, predict(x=Tensor(content=payload)).SerializeToString())
    receive(PREDICT, PredictRequest(images=[payload]).SerializeToString())
    request = predict(x=Tensor(content=payload))
    request.outputs.append("x" * MAX_BYTES)
    with pytest.raises(InvalidInput, match="may have 4194304"):
        receive(PREDICT, request.SerializeToString())
    with pytest.raises(InvalidInput, match="may have 4194304"):
        parse(GetModelRequest, length_delimited(90, payload))


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
    with pytest.raises(InvalidInput, match=r"the bytes are no inference\.ModelInferRequest"):
        receive(INFER, message)


@pytest.mark.parametrize(
    "message", [b"\x3a", b"\xff" * 20, b"\x09abc", length_delimited(2, b"\x12")]
)
def test_what_is_no_long_message_is_refused_before_it_is_parsed(message: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"the bytes are no forwardpass\.v1\.PredictRequest"):
        receive(PREDICT, length_delimited(3, bytes(LONG)) + message)


@given(st.binary(max_size=2000))
def test_any_bytes_are_received_or_refused(message: bytes) -> None:
    for schema in (INFER, PREDICT, PREDICT_STREAM):
        try:
            received = receive(schema, message)
        except InvalidInput:
            continue
        received.slots()
        for begin, end in received.contents or ():
            assert 0 <= begin <= end <= len(message)
