"""Streams: the same images again and again, several requests on their way."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.calls import connect, infer_output, infer_request
from benchmarks.load import Target
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor
from forwardpass.wire.open_inference import SERVICE, message_class

INPUT = "image"
_TIMEOUT = 120.0
_NATIVE = "/forwardpass.v1.InferenceService"
# So many answers of a stream are compared, one by one, before h2load asks for more of them.
_CHECKED = 20
# How exactly answers must agree with ONNX Runtime's: the server may run requests together.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True)
class Method:
    """A stream's method.

    Attributes:
        name: What the tables call it.
        path: The method's path.
        output: The output that is asked for and compared.
        encode: Makes a request of a model and images.
        decode: Gives the output of an answer; fails where that is an error.
    """

    name: str
    path: str
    output: str
    encode: Callable[[ModelReference, Array], bytes]
    decode: Callable[[bytes], Array]


def _embed_request(model: ModelReference, images: Array) -> bytes:
    request = pb.EmbedRequest(model=model, inputs={INPUT: to_tensor(images)})
    return pb.EmbedStreamRequest(request=request).SerializeToString()


def _embed_response(message: bytes) -> Array:
    return from_tensor(pb.EmbedStreamResponse.FromString(message).response.embeddings)


def _predict_request(model: ModelReference, images: Array) -> bytes:
    request = pb.PredictRequest(model=model, inputs={INPUT: to_tensor(images)})
    return pb.PredictStreamRequest(request=request).SerializeToString()


def _predict_response(message: bytes) -> Array:
    (tensor,) = pb.PredictStreamResponse.FromString(message).response.outputs.values()
    return from_tensor(tensor)


def _infer_request(model: ModelReference, images: Array) -> bytes:
    return infer_request(model.name, INPUT, images, str(model.version or ""))


def _infer_response(message: bytes) -> Array:
    answer: Any = message_class("ModelStreamInferResponse").FromString(message)
    return infer_output(answer.infer_response)


EMBED_STREAM = Method(
    "EmbedStream", f"{_NATIVE}/EmbedStream", "embedding", _embed_request, _embed_response
)
PREDICT_STREAM = Method(
    "PredictStream",
    f"{_NATIVE}/PredictStream",
    "probabilities",
    _predict_request,
    _predict_response,
)
MODEL_STREAM_INFER = Method(
    "ModelStreamInfer",
    f"/{SERVICE}/ModelStreamInfer",
    "embedding",
    _infer_request,
    _infer_response,
)


class Stream:
    """A request that is sent again and again on streams of one connection.

    Args:
        channel: The connection.
        method: What is called.
        message: The request.
        right: The output that answers it.
    """

    def __init__(self, channel: grpc.Channel, method: Method, message: bytes, right: Array) -> None:
        self._call: Any = channel.stream_stream(method.path)
        self._method = method
        self._message = message
        self._right = right

    def seconds(self, requests: int, in_flight: int) -> float:
        """Returns how long so many requests take, from the first sent to the last answered.

        Args:
            requests: On one stream.
            in_flight: How many are unanswered at a time.

        Raises:
            SystemExit: An answer is missing, or the last one is wrong, or one differs in length.
            grpc.RpcError: The stream fails.
        """
        room = threading.Semaphore(in_flight)

        def messages() -> Iterator[bytes]:
            for _ in range(requests):
                room.acquire()
                yield self._message

        lengths = []
        answer = b""
        started = time.perf_counter()
        for answer in self._call(messages(), timeout=_TIMEOUT):
            room.release()
            lengths.append(len(answer))
        seconds = time.perf_counter() - started
        if lengths != [len(answer)] * requests or not _is_right(self._method, answer, self._right):
            raise SystemExit(
                f"{self._method.name} answers {len(lengths)} of {requests}, or wrongly"
            )
        return seconds


def stream_target(
    address: str, method: Method, message: bytes, right: Array, requests: int
) -> Target:
    """Returns a stream for h2load; a short one is opened before, and its answers are compared.

    All requests of a stream are sent at once. The server takes them as it answers those before
    them, so that as many are in flight as it holds of a stream.

    Args:
        address: Of the server.
        method: What is called.
        message: The request.
        right: The output that answers it.
        requests: How many there are on a stream.

    Raises:
        SystemExit: An answer is missing or wrong.
        grpc.RpcError: The stream fails.
    """
    with connect(address) as channel:
        call: Any = channel.stream_stream(method.path)
        answers = list(call(itertools.repeat(message, _CHECKED), timeout=_TIMEOUT))
    if len(answers) != _CHECKED or not all(_is_right(method, answer, right) for answer in answers):
        raise SystemExit(f"{address} answers {method.name} wrongly")
    return Target(address, method.path, message, len(answers[0]), requests)


def _is_right(method: Method, answer: bytes, right: Array) -> bool:
    given = method.decode(answer)
    return given.shape == right.shape and np.allclose(given, right, _RELATIVE, _ABSOLUTE)
