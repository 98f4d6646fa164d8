"""The wire layout of the messages that carry payload, in one place, for both protocols.

`receive` holds a request's bytes against its schema; responses that are put together from bytes
take their field numbers from here. Numbers come from the descriptors: a field is named, never
counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    EmbedStreamRequest,
    GenerateRequest,
    GenerateStreamRequest,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)
from forwardpass.v1.tensor_pb2 import Tensor
from forwardpass.wire.fields import BYTES
from forwardpass.wire.open_inference import message_class

M = TypeVar("M", bound=Message)
# protobuf's C form has a class of its own for descriptors.
Descriptor: TypeAlias = Any
_MAX_INPUTS = 64
# Rows that come as a field each.
_MAX_ROWS = 1 << 16
_MAX_AXES = 32
# Shorter native messages are parsed as they are: what they can grow to is little, and to copy their
# elements takes less time than to find them.
_SCANNED_FROM = 64 << 10
MAX_PARAMETERS = 64


@dataclass(frozen=True, slots=True)
class Field:
    """What a message may have of a field that holds text, bytes or messages.

    Attributes:
        name: What an error calls it.
        most: How often it may come.
        is_payload: Whether it holds bytes that stay bytes, which cost a parser nothing.
        is_content: Whether it is payload that holds the elements of a tensor, which no parser need
            copy.
        is_id: Whether it holds what the caller calls the request.
        inside: The layout of the message that it holds.
    """

    name: str
    most: int
    is_payload: bool = False
    is_content: bool = False
    is_id: bool = False
    inside: "Layout | None" = None


# What a layout does not list, such as a number or a name.
OTHER = Field("other fields", 256)


class Layout:
    """The fields of a message that are counted one by one; all others are counted together.

    Attributes:
        fields: By tag.
        has_content: Whether the elements of tensors may be in it, however deep.

    Args:
        descriptor: The message's.
        fields: By name.
    """

    __slots__ = ("fields", "has_content")

    def __init__(self, descriptor: Descriptor, **fields: Field) -> None:
        self.fields: Mapping[int, Field] = {
            _number(descriptor, name) << 3 | BYTES: field for name, field in fields.items()
        }
        self.has_content: bool = any(
            field.is_content or (field.inside is not None and field.inside.has_content)
            for field in fields.values()
        )


@dataclass(frozen=True, slots=True)
class Schema(Generic[M]):
    """A request that carries payload.

    Attributes:
        kind: Its class.
        layout: What it may have.
        scanned_from: How many bytes it has at least where its tensors' elements are detached.
    """

    kind: type[M]
    layout: Layout
    scanned_from: int


def _number(descriptor: Descriptor, name: str) -> int:
    number: int = descriptor.fields_by_name[name].number
    return number


def _map_entry(kind: type[Message], field: str) -> Descriptor:
    entry: Descriptor = kind.DESCRIPTOR.fields_by_name[field].message_type
    return entry


_TENSOR = Layout(
    Tensor.DESCRIPTOR,
    shape=Field("axes", _MAX_AXES),
    content=Field("contents", 1, is_payload=True, is_content=True),
)


def _inputs(kind: type[Message]) -> Layout:
    entry = Layout(_map_entry(kind, "inputs"), value=Field("tensors", 1, inside=_TENSOR))
    return Layout(
        kind.DESCRIPTOR,
        inputs=Field("inputs", _MAX_INPUTS, inside=entry),
        images=Field("images", _MAX_ROWS, is_payload=True),
        texts=Field("texts", _MAX_ROWS, is_payload=True),
        **({"outputs": Field("outputs", _MAX_INPUTS)} if kind is PredictRequest else {}),
    )


def _stream_of(kind: type[M], request: Layout) -> Schema[M]:
    layout = Layout(kind.DESCRIPTOR, request=Field("requests", 1, inside=request))
    return Schema(kind, layout, _SCANNED_FROM)


_PREDICT, _EMBED = _inputs(PredictRequest), _inputs(EmbedRequest)
_GENERATE = Layout(GenerateRequest.DESCRIPTOR, latents=Field("latents", 1, inside=_TENSOR))
PREDICT = Schema(PredictRequest, _PREDICT, _SCANNED_FROM)
EMBED = Schema(EmbedRequest, _EMBED, _SCANNED_FROM)
GENERATE = Schema(GenerateRequest, _GENERATE, _SCANNED_FROM)
PREDICT_STREAM = _stream_of(PredictStreamRequest, _PREDICT)
EMBED_STREAM = _stream_of(EmbedStreamRequest, _EMBED)
GENERATE_STREAM = _stream_of(GenerateStreamRequest, _GENERATE)

# Of an entry of a map.
_ENTRY = _map_entry(PredictResponse, "outputs")
MAP_KEY, MAP_VALUE = _number(_ENTRY, "key"), _number(_ENTRY, "value")
TENSOR_CONTENT = Tensor.CONTENT_FIELD_NUMBER
PREDICT_OUTPUTS = PredictResponse.OUTPUTS_FIELD_NUMBER
EMBEDDINGS = EmbedResponse.EMBEDDINGS_FIELD_NUMBER
# Of the native streams, whose messages have the same numbers.
STREAM_RESPONSE = PredictStreamResponse.RESPONSE_FIELD_NUMBER
STREAM_ERROR = PredictStreamResponse.ERROR_FIELD_NUMBER


def _open_inference() -> Schema[Any]:
    kind = message_class("ModelInferRequest")
    nested = kind.DESCRIPTOR.nested_types_by_name
    parameters = Field("parameters", MAX_PARAMETERS)
    tensor = Layout(
        nested["InferInputTensor"],
        # An encoder writes a shape as one field, or one field for each axis.
        shape=Field("shape", _MAX_INPUTS),
        parameters=parameters,
        contents=Field("contents", 1),
    )
    output = Layout(nested["InferRequestedOutputTensor"], parameters=parameters)
    layout = Layout(
        kind.DESCRIPTOR,
        id=Field("ids", OTHER.most, is_id=True),
        parameters=parameters,
        inputs=Field("inputs", _MAX_INPUTS, inside=tensor),
        outputs=Field("outputs", _MAX_INPUTS, inside=output),
        raw_input_contents=Field(
            "raw_input_contents", _MAX_INPUTS, is_payload=True, is_content=True
        ),
    )
    # From the first byte: the arrays of its inputs look at the message itself.
    return Schema(kind, layout, 0)


INFER = _open_inference()
RAW_OUTPUT_CONTENTS = _number(message_class("ModelInferResponse").DESCRIPTOR, "raw_output_contents")
INFER_RESPONSE = _number(message_class("ModelStreamInferResponse").DESCRIPTOR, "infer_response")
