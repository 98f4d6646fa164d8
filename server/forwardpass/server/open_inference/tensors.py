"""The inputs of a request: one array of each, looked at where they lie, not copied."""

import math
from typing import Any

import numpy as np

from forwardpass.server.errors import InvalidInput, nearest, quote
from forwardpass.server.open_inference import parameters
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.receive import Received, Span
from forwardpass.server.transport.call import Call
from forwardpass.v1.tensor_pb2 import DATA_TYPE_STRING, Tensor
from forwardpass.wire import MAX_RANK, Array, ElementType, to_tensor
from forwardpass.wire.dtypes import ELEMENT_TYPES, STRING

MAX_TENSORS = 64
_TYPES = {kind.open_inference: kind for kind in ELEMENT_TYPES}
# The field of InferTensorContents that holds each type; FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_SHOWN_AXES = 8


def read_inputs(call: Call, received: Received[Any], reader: InputReader) -> dict[str, Array]:
    """Returns an array for each input; strings as `str`.

    Args:
        call: Who asks.
        received: The ModelInferRequest, at whose bytes the arrays go on looking.
        reader: Knows what the server refuses.

    Raises:
        InvalidInput: An input that contradicts itself or comes twice, or contents that are both
            raw and typed, or not as many as inputs.
        CallError: QUEUE_FULL: there is no room for what its strings become.
    """
    tensors, raw = received.head.inputs, received.head.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise InvalidInput(
            f"{len(tensors)} inputs, but {len(raw)} raw_input_contents; send one for each input",
            field="raw_input_contents",
            expected=len(tensors),
            got=len(raw),
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if name in arrays:
            raise InvalidInput(f"input {quote(name)} is given twice", field="inputs")
        if tensor.parameters:
            parameters.check(tensor.parameters, f"inputs.{quote(name)}.parameters")
        if tensor.datatype == STRING.open_inference:
            reader.hold_strings(call, tensor.shape)
        try:
            arrays[name] = (
                _raw(tensor, received.message, received.span(raw[index]), reader)
                if raw
                else _typed(tensor, reader)
            )
        except _Wrong as error:
            raise InvalidInput(
                f"inputs[{quote(name)}] {error}",
                field=f"inputs.{quote(name)}",
                expected=error.expected,
                got=error.got,
            ) from None
    return arrays


class _Wrong(Exception):
    """What is wrong with a tensor; who raises it need not know the tensor's name."""

    def __init__(self, message: str, expected: object = None, got: object = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


def _raw(tensor: Any, message: bytes, span: Span, reader: InputReader) -> Array:
    if tensor.HasField("contents"):
        raise _Wrong("has contents beside raw_input_contents; send one of them")
    kind, shape, count = _form(tensor)
    begin, end = span
    if kind is STRING:
        return _strings(tensor.name, shape, message[begin:end], reader)
    expected = count * kind.dtype.itemsize
    if end - begin != expected:
        raise _Wrong(
            f"is {kind.open_inference} of shape {_shown(shape)}, expected {expected} bytes, "
            f"got {end - begin}",
            expected,
            end - begin,
        )
    if not count:
        return _empty(kind, shape)
    array = np.frombuffer(message, kind.dtype, count, begin)
    if kind.dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise _Wrong("is BOOL, of which each is one byte, 0 or 1, got another")
    return _finite(array.reshape(shape), reader)


def _typed(tensor: Any, reader: InputReader) -> Array:
    kind, shape, count = _form(tensor)
    contents = tensor.contents
    field = _CONTENTS.get(kind.open_inference)
    if field is None:
        raise _Wrong(f"is {kind.open_inference}, which travels in raw_input_contents only")
    for given, _ in contents.ListFields():
        if given.name != field:
            raise _Wrong(f"is {kind.open_inference}, expected {field}, got {given.name}")
    values = getattr(contents, field)
    if len(values) != count:
        raise _Wrong(
            f"is {kind.open_inference} of shape {_shown(shape)}, expected {count} elements in "
            f"{field}, got {len(values)}",
            count,
            len(values),
        )
    if not count:
        return _empty(kind, shape)
    if kind is STRING:
        strings = np.array(list(values), dtype=object)
        return _strings(tensor.name, shape, to_tensor(strings).content, reader)
    try:
        array = np.fromiter(values, kind.dtype, count)
    except OverflowError:
        raise _Wrong(f"has an element out of the range of {kind.open_inference}") from None
    return _finite(array.reshape(shape), reader)


def _form(tensor: Any) -> tuple[ElementType, tuple[int, ...], int]:
    """Returns the type, the shape and the number of elements that a tensor claims to have."""
    datatype = tensor.datatype
    kind = _TYPES.get(datatype)
    if kind is None:
        raise _Wrong(
            f"has datatype {quote(datatype)}{nearest(datatype, _TYPES)}; "
            f"it may be {', '.join(_TYPES)}",
        )
    axes = len(tensor.shape)
    if axes > MAX_RANK:
        raise _Wrong(f"has {axes} axes, but a tensor has at most {MAX_RANK}", MAX_RANK, axes)
    shape = tuple(tensor.shape)
    if shape and min(shape) < 0:
        raise _Wrong(f"has shape {_shown(shape)}, with a negative extent")
    return kind, shape, math.prod(shape)


def _empty(kind: ElementType, shape: tuple[int, ...]) -> Array:
    try:
        return np.empty(shape, kind.dtype)
    except ValueError:
        # Without elements a tensor may still claim extents that numpy cannot index.
        raise _Wrong(f"has shape {_shown(shape)}, which is too large") from None


def _strings(name: str, shape: tuple[int, ...], content: bytes, reader: InputReader) -> Array:
    return reader.tensor(name, Tensor(data_type=DATA_TYPE_STRING, shape=shape, content=content))


def _finite(array: Array, reader: InputReader) -> Array:
    if reader.reject_nonfinite and array.dtype.kind in "fV" and not np.isfinite(array).all():
        raise _Wrong("has a NaN or an infinity, which this server refuses")
    return array


def _shown(shape: tuple[int, ...]) -> str:
    """Returns a shape as an error may show it: not all of it where it is long."""
    if len(shape) <= _SHOWN_AXES:
        return str(list(shape))
    return f"[{', '.join(map(str, shape[:_SHOWN_AXES]))}, …]"
