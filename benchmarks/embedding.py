"""How near a stream of images comes to ONNX Runtime alone on the same core."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.bare import Bare, answers
from benchmarks.calls import connect
from benchmarks.networks import DEPTHS, FLOAT, INT8, LENET
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import CORES, Serving, pinned, serve
from benchmarks.streams import EMBED_STREAM, INPUT, PREDICT_STREAM, Method, Stream
from forwardpass.artefact import MODEL_FILE
from forwardpass.v1.model_service_pb2 import ModelReference

ROWS = 8
# As many as the server holds of a stream.
IN_FLIGHT = 8
# How long one measurement takes, in seconds; at least so many runs, for the slowest network.
_SECONDS, _FEWEST = 1.2, 3
_VERSIONS = {FLOAT: "float", INT8: "int8"}


@dataclass(frozen=True)
class Network:
    """A graph that takes images, and how a stream asks for it.

    Attributes:
        model: Its name.
        shape: Of an image.
        method: LeNet has no embedding, so its stream is another.
    """

    model: str
    shape: tuple[int, int, int]
    method: Method


@dataclass
class Comparison:
    """A version that is measured, alone and served.

    Attributes:
        network: Which.
        version: Its number.
        bare: ONNX Runtime alone.
        stream: The server.
        runs: How many batches take about _SECONDS.
        alone: Images per second of ONNX Runtime, of each round.
        served: Likewise of the server.
    """

    network: Network
    version: int
    bare: Bare
    stream: Stream
    runs: int = _FEWEST
    alone: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    def calibrate(self) -> None:
        """Warms both up, and finds out how many runs to measure."""
        self.bare.seconds(1)
        self.runs = max(_FEWEST, round(_SECONDS * _FEWEST / self.bare.seconds(_FEWEST)))
        self.stream.seconds(_FEWEST, IN_FLIGHT)

    def measure_alone(self) -> None:
        """Measures ONNX Runtime once."""
        self.alone.append(ROWS * self.runs / self.bare.seconds(self.runs))

    def measure_served(self) -> None:
        """Measures the server once."""
        self.served.append(ROWS * self.runs / self.stream.seconds(self.runs, IN_FLIGHT))


NETWORKS = (
    Network(LENET, (28, 28, 1), PREDICT_STREAM),
    *(Network(f"resnet-{depth}", (224, 224, 3), EMBED_STREAM) for depth in DEPTHS),
)


def measure(plan: Plan) -> list[Table]:
    """Measures every network in float and in int8; makes them first where they are not there."""
    folder = plan.models.parent / "networks"
    program = [sys.executable, "-m", "benchmarks.networks", str(folder), str(plan.models)]
    subprocess.run(pinned(program, CORES), check=True)
    with ExitStack() as stack:
        server = stack.enter_context(serve(folder))
        comparisons = list(_comparisons(stack, server, folder, plan.scratch))
        for comparison in comparisons:
            comparison.calibrate()
        for number in range(plan.rounds):
            for comparison in comparisons:
                # Neither is always the first.
                pair = (comparison.measure_alone, comparison.measure_served)
                for measure_one in pair[:: -1 if number % 2 else 1]:
                    measure_one()
        server.check_handled()
    return [_table(comparisons, plan.rounds)]


def _comparisons(
    stack: ExitStack, server: Serving, folder: Path, scratch: Path
) -> Iterator[Comparison]:
    channel = stack.enter_context(connect(server.address))
    random = np.random.default_rng(0)
    for network in NETWORKS:
        images = random.integers(0, 256, (ROWS, *network.shape), dtype=np.uint8)
        for version in _VERSIONS:
            file = folder / network.model / str(version) / MODEL_FILE
            output = network.method.output
            (right,) = answers(file, INPUT, [images], output)
            message = network.method.encode(
                ModelReference(name=network.model, version=version), images
            )
            array = scratch / f"{network.model}-{version}.npy"
            np.save(array, images)
            yield Comparison(
                network,
                version,
                stack.enter_context(Bare(file, INPUT, array, output)),
                Stream(channel, network.method, message, right),
            )


def _table(comparisons: list[Comparison], rounds: int) -> Table:
    rows = [
        [
            comparison.network.model,
            _VERSIONS[comparison.version],
            comparison.network.method.name,
            f"{median(comparison.alone):,.1f}",
            f"{median(comparison.served):,.1f}",
            ratio(comparison.served, comparison.alone, 3),
        ]
        for comparison in comparisons
    ]
    how = (
        f"Images per second, {ROWS} uint8 images a request, {IN_FLIGHT} requests in flight on one "
        "stream. Alone is a loop around ONNX Runtime with the server's session options in a "
        "process of its own, on the core that the server has otherwise; who calls is on the other. "
        f"ResNets have random weights. Median of {rounds} interleaved rounds."
    )
    columns = ["network", "weights", "call", "alone", "served", "served ÷ alone"]
    return Table("Streams of images", how, columns, rows)
