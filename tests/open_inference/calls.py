"""Calls of the protocol with its own messages, as any generated client would make them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from forwardpass.wire import Array, element_type, to_tensor
from forwardpass.wire.dtypes import ELEMENT_TYPES, STRING
from forwardpass.wire.open_inference import SERVICE, message_class

TYPES = {kind.open_inference: kind for kind in ELEMENT_TYPES}
# What a request with nothing wrong looks like.
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)


def new(name: str, /, **fields: Any) -> Any:
    """Returns a message of the protocol."""
    return message_class(name)(**fields)


@dataclass(frozen=True)
class Calls:
    """Makes calls on a channel."""

    channel: grpc.Channel

    def __call__(self, method: str, /, **fields: Any) -> Any:
        return self.send(method, new(f"{method}Request", **fields).SerializeToString())

    def send(self, method: str, message: bytes, **options: Any) -> Any:
        """Sends bytes, whether they are a message or not."""
        call: Any = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            response_deserializer=message_class(f"{method}Response").FromString,
        )
        return call(message, **options)

    def infer(self, request: Any, **options: Any) -> Any:
        return self.send("ModelInfer", request.SerializeToString(), **options)

    def stream(self, messages: Iterable[bytes], **options: Any) -> Any:
        call: Any = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            response_deserializer=message_class("ModelStreamInferResponse").FromString,
        )
        return call(iter(messages), **options)


def infer_request(model: str, inputs: Mapping[str, Array], **fields: Any) -> Any:
    """Returns a request with raw contents."""
    request = new("ModelInferRequest", model_name=model, **fields)
    for name, array in inputs.items():
        kind = element_type(array.dtype).open_inference
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(to_tensor(array).content)
    return request


def emb(array: Array = FEATURES, **fields: Any) -> Any:
    """Returns a request for the embedder."""
    return infer_request("emb", {"features": array}, **fields)


def raw_output(response: Any, index: int = 0) -> Array:
    """Returns an output from its raw contents; strings as bytes."""
    output, raw = response.outputs[index], response.raw_output_contents[index]
    kind = TYPES[output.datatype]
    if kind is STRING:
        strings = np.array([*_strings(raw), None], object)[:-1]
        return strings.reshape(output.shape)
    return np.frombuffer(raw, kind.dtype).reshape(output.shape)


def _strings(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size
