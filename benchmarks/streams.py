"""EmbedStream and PredictStream: the same images again and again, several requests on their way."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

INPUT = "image"
_TIMEOUT = 120.0
_SERVICE = "/forwardpass.v1.InferenceService"
# How exactly answers must agree with ONNX Runtime's: the server may run requests together.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True)
class Method:
    """A stream's method.

    Attributes:
        name: What the tables call it.
        output: The output that is asked for and compared.
        encode: Makes a request of a model and images.
        decode: Gives the output of an answer; fails where that is an error.
    """

    name: str
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


EMBED_STREAM = Method("EmbedStream", "embedding", _embed_request, _embed_response)
PREDICT_STREAM = Method("PredictStream", "probabilities", _predict_request, _predict_response)


class Stream:
    """A request that is sent again and again on streams of one connection.

    Args:
        channel: The connection.
        method: What is called.
        message: The request.
        right: The output that answers it.
    """

    def __init__(self, channel: grpc.Channel, method: Method, message: bytes, right: Array) -> None:
        self._call: Any = channel.stream_stream(f"{_SERVICE}/{method.name}")
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
        vectors = self._method.decode(answer)
        if (
            lengths != [len(answer)] * requests
            or vectors.shape != self._right.shape
            or not np.allclose(vectors, self._right, _RELATIVE, _ABSOLUTE)
        ):
            raise SystemExit(
                f"{self._method.name} answers {len(lengths)} of {requests}, or wrongly"
            )
        return seconds
