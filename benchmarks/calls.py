"""Requests in both protocols, sent by a real client that looks at the answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.load import Target
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictResponse
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor
from forwardpass.wire.dtypes import element_type
from forwardpass.wire.open_inference import SERVICE, message_class

# How exactly two servers' answers must agree: they run the same graph, but in other batches.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Protocol:
    """One way to ask for y given x.

    Attributes:
        name: What the tables call it.
        path: The method's path.
        encode: Makes the bytes of a request of a model's name and x.
        decode: Gives y of the bytes of an answer.
    """

    name: str
    path: str
    encode: Callable[[str, Array], bytes]
    decode: Callable[[bytes], Array]


def infer_request(model: str, name: str, array: Array, version: str = "") -> bytes:
    """Returns the bytes of a ModelInferRequest.

    Args:
        model: The model's name.
        name: Of its input.
        array: The input.
        version: The model's version; the newest where empty.
    """
    request: Any = message_class("ModelInferRequest")(model_name=model, model_version=version)
    datatype = element_type(array.dtype).open_inference
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return bytes(request.SerializeToString())


def infer_output(response: Any) -> Array:
    """Returns the only output, float32, of a ModelInferResponse."""
    (output,), (raw,) = response.outputs, response.raw_output_contents
    return np.frombuffer(raw, np.float32).reshape(output.shape)


def _infer_request(model: str, x: Array) -> bytes:
    return infer_request(model, "x", x)


def _infer_response(message: bytes) -> Array:
    return infer_output(message_class("ModelInferResponse").FromString(message))


def _predict_request(model: str, x: Array) -> bytes:
    inputs = {"x": to_tensor(x)}
    return PredictRequest(model=ModelReference(name=model), inputs=inputs).SerializeToString()


def _predict_response(message: bytes) -> Array:
    return from_tensor(PredictResponse.FromString(message).outputs["y"])


MODEL_INFER = Protocol("ModelInfer", f"/{SERVICE}/ModelInfer", _infer_request, _infer_response)
PREDICT = Protocol(
    "Predict", "/forwardpass.v1.InferenceService/Predict", _predict_request, _predict_response
)


def connect(address: str) -> grpc.Channel:
    """Returns a connection of its own."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def one_target(address: str, protocol: Protocol, model: str, x: Array) -> Target:
    """Returns a request for h2load; it is sent once, to see how long its answer is."""
    message = protocol.encode(model, x)
    with connect(address) as channel:
        call: Any = channel.unary_unary(protocol.path)
        answer: bytes = call(message, timeout=_TIMEOUT)
    return Target(address, protocol.path, message, len(answer))


def check_answers(
    address: str,
    protocol: Protocol,
    model: str,
    questions: Iterable[Array],
    right: Iterable[Array],
) -> None:
    """Asks questions, all at a time, and compares the answers.

    Args:
        address: Of the server.
        protocol: How to ask.
        model: Whom to ask.
        questions: An x each.
        right: The y of each.

    Raises:
        SystemExit: An answer is wrong.
        grpc.RpcError: A call fails.
    """
    with connect(address) as channel:
        call: Any = channel.unary_unary(protocol.path)
        futures = [call.future(protocol.encode(model, x), timeout=_TIMEOUT) for x in questions]
        for future, y in zip(futures, right, strict=True):
            if not np.allclose(protocol.decode(future.result()), y, _RELATIVE, _ABSOLUTE):
                raise SystemExit(f"{address} answers {protocol.name} wrongly")
