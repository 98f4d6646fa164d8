"""The graphs that are measured: their weights are random, their speed is what counts."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forwardpass.artefact import CARD_KEY, card_to_json
from forwardpass.server.onnx.session import Session
from forwardpass.v1 import model_card_pb2 as card_pb
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import Array

MLP, SLOW, EMBEDDER = "mlp", "slow", "embedder"
WIDTHS = (784, 256, 128, 10)
# A run of the slow graph takes about this long on one core, in seconds.
SLOW_SECONDS = 0.022
_SIDE = 256
# What the embedder takes, and how long its vectors are.
IMAGE = (28, 28, 1)
_DIMENSION = 32


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
    return _model(nodes, _floats("x", "n", WIDTHS[0]), _floats("y", "n", WIDTHS[-1]), constants)


def embedder() -> onnx.ModelProto:
    """Returns one linear layer: image uint8 [n, 28, 28, 1] to embedding float32 [n, 32].

    It takes next to no time, so that what is measured is the server's own. Its card says that the
    output is an embedding, without which Embed does not answer with it.
    """
    pixels = int(np.prod(IMAGE))
    weights = np.random.default_rng(0).normal(scale=1 / pixels, size=(pixels, _DIMENSION))
    made = _model(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["row"], axis=1),
            helper.make_node("MatMul", ["row", "weights"], ["embedding"]),
        ],
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *IMAGE]),
        _floats("embedding", "n", _DIMENSION),
        {"weights": weights.astype(np.float32)},
    )
    image = card_pb.TensorSpec(
        name="image",
        data_type=tensor_pb2.DATA_TYPE_UINT8,
        shape=(-1, *IMAGE),
        role=card_pb.TENSOR_ROLE_IMAGE,
    )
    embedding = card_pb.TensorSpec(
        name="embedding",
        data_type=tensor_pb2.DATA_TYPE_FLOAT32,
        shape=(-1, _DIMENSION),
        role=card_pb.TENSOR_ROLE_EMBEDDING,
    )
    signature = card_pb.Signature(inputs=[image], outputs=[embedding], batched=True)
    helper.set_model_props(made, {CARD_KEY: card_to_json(card_pb.ModelCard(signature=signature))})
    return made


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
    return _model(nodes, _floats("x", 1, 1), _floats("y", 1, 1), constants)


def _seconds(graph: onnx.ModelProto) -> float:
    """The median time of a run on one thread: the processor's, which other programs leave alone."""
    session = Session(graph.SerializeToString(), {}, 1)
    times = []
    for _ in range(15):
        started = time.thread_time()
        session.run(["y"], {"x": np.ones((1, 1), np.float32)})
        times.append(time.thread_time() - started)
    return float(np.median(times))


def _floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto],
    taken: onnx.ValueInfoProto,
    given: onnx.ValueInfoProto,
    constants: dict[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [taken],
        [given],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made
