"""What two builds are asked, to see which answers sooner."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import graphs
from benchmarks.bare import answers
from benchmarks.calls import MODEL_INFER, PREDICT, Protocol, check_answers, one_target
from benchmarks.competitor import Competitor
from benchmarks.load import Target
from benchmarks.serving import Serving
from benchmarks.streams import (
    EMBED_STREAM,
    INPUT,
    MODEL_STREAM_INFER,
    PREDICT_STREAM,
    Method,
    stream_target,
)
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array

_ROWS, _IN_FLIGHT = 64, (1, 8, 32, 128)
_ROWS_IN_FLIGHT = (8, 32)
_IMAGES = (1, 8)
# How many different questions are asked at a time, to compare the answers.
_SAMPLE = 8
# Requests on a stream: so many that its beginning and its end do not count.
_REQUESTS = 500
# How many calls, and how many streams, find out how fast a server is.
_CALLS, _STREAMS = 500, 3


@dataclass(frozen=True)
class Question:
    """A question, asked again and again.

    Attributes:
        what: What the table calls it.
        in_flight: How many calls at a time.
        trial: How many calls find out how fast a server is.
        target: Gives what h2load asks the server at an address, after comparing answers of it with
            ONNX Runtime's own.
    """

    what: str
    in_flight: int
    trial: int
    target: Callable[[str], Target]

    def competitor(self, serving: Serving) -> Competitor:
        """Returns a server as one that is asked this; it has been asked a little, to warm up."""
        asked = Competitor(self.what, self.target(serving.address), self.in_flight, self.trial)
        asked.calibrate()
        return asked


def publish(models: Path) -> Mapping[str, Sequence[Question]]:
    """Puts the graphs into a model repository; returns what is asked of them, by measurement."""
    mlp = graphs.write(models, graphs.MLP, graphs.mlp())
    embedder = graphs.write(models, graphs.EMBEDDER, graphs.embedder())
    return {
        "rates": [
            _calls(mlp, protocol, 1, in_flight)
            for protocol in (MODEL_INFER, PREDICT)
            for in_flight in _IN_FLIGHT
        ],
        "rows": [_calls(mlp, MODEL_INFER, _ROWS, in_flight) for in_flight in _ROWS_IN_FLIGHT],
        "streams": [
            _stream(embedder, method, images)
            for method in (PREDICT_STREAM, EMBED_STREAM, MODEL_STREAM_INFER)
            for images in _IMAGES
        ],
    }


def _calls(file: Path, protocol: Protocol, rows: int, in_flight: int) -> Question:
    shape = (_SAMPLE, rows, graphs.WIDTHS[0])
    sample = np.random.default_rng(0).random(shape, np.float32)
    right = answers(file, "x", sample, "y")
    what = f"{protocol.name} of {rows} {'row' if rows == 1 else 'rows'}, {in_flight} in flight"
    return Question(what, in_flight, _CALLS, partial(_checked, protocol, sample, right))


def _checked(protocol: Protocol, sample: Array, right: Sequence[Array], address: str) -> Target:
    check_answers(address, protocol, graphs.MLP, sample, right)
    return one_target(address, protocol, graphs.MLP, sample[0])


def _stream(file: Path, method: Method, count: int) -> Question:
    images = np.random.default_rng(0).integers(0, 256, (count, *graphs.IMAGE), dtype=np.uint8)
    (right,) = answers(file, INPUT, [images], "embedding")
    message = method.encode(ModelReference(name=graphs.EMBEDDER), images)
    what = f"{method.name}, {count} {'image' if count == 1 else 'images'} a request"

    def target(address: str) -> Target:
        return stream_target(address, method, message, right, _REQUESTS)

    return Question(what, 1, _STREAMS, target)
