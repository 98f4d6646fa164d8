"""The graphs that are measured: their weights are random, their speed is what counts."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forwardpass.server.onnx.session import Session
from forwardpass.wire import Array

MLP, SLOW = "mlp", "slow"
WIDTHS = (784, 256, 128, 10)
# A run of the slow graph takes about this long on one core, in seconds.
SLOW_SECONDS = 0.022
_SIDE = 256


def write(models: Path, name: str, graph: onnx.ModelProto) -> Path:
    """Puts a graph into a model repository as version 1, and returns its file."""
    path = models / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(graph.SerializeToString())
    return path


def mlp() -> onnx.ModelProto:
    """Returns three linear layers with ReLU between: x float32 [n, 784] to y float32 [n, 10]."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    value = "x"
    for layer, (width, following) in enumerate(pairwise(WIDTHS)):
        scale = np.sqrt(2 / width)
        weights = random.normal(scale=scale, size=(width, following))
        constants |= {
            f"w{layer}": weights.astype(np.float32),
            f"b{layer}": random.normal(size=following).astype(np.float32),
        }
        last = layer == len(WIDTHS) - 2
        linear = "y" if last else f"linear{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [linear]))
        if not last:
            value = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    return _model(nodes, ["n", WIDTHS[0]], ["n", WIDTHS[-1]], constants)


def slow() -> tuple[onnx.ModelProto, float]:
    """Returns a graph that gives its input back after SLOW_SECONDS, and the seconds it took.

    x float32 [1, 1] to y float32 [1, 1], with as many products of 256 x 256 matrices as this
    core needs. The extents are fixed, so that no server gathers several into one run.
    """
    sample = 20
    steps = round(sample * SLOW_SECONDS / _seconds(_chain(sample)))
    graph = _chain(steps)
    return graph, _seconds(graph)


def _chain(steps: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "zeros"], ["step0"])]
    nodes += [
        helper.make_node("MatMul", [f"step{step}", "one"], [f"step{step + 1}"])
        for step in range(steps)
    ]
    nodes.append(helper.make_node("ReduceMax", [f"step{steps}"], ["y"], keepdims=1))
    constants = {
        "zeros": np.zeros((_SIDE, _SIDE), np.float32),
        "one": np.eye(_SIDE, dtype=np.float32),
    }
    return _model(nodes, [1, 1], [1, 1], constants)


def _seconds(graph: onnx.ModelProto) -> float:
    """The median time of a run on one thread: the processor's, which other programs leave alone."""
    session = Session(graph.SerializeToString(), {}, 1)
    times = []
    for _ in range(15):
        started = time.thread_time()
        session.run(["y"], {"x": np.ones((1, 1), np.float32)})
        times.append(time.thread_time() - started)
    return float(np.median(times))


def _model(
    nodes: list[onnx.NodeProto],
    taken: list[int | str],
    given: list[int | str],
    constants: dict[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made
