"""Graphs whose answers depend on where arrays lie, on other rows, or on how long an axis is."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from forwardpass.wire import Array

from .graph import Graph, Shape, graph, tame


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


# Each adds up, and in an order that depends on where its input begins; 1,001 is no multiple of the
# length of any vector.
_REDUCTIONS: Mapping[str, Mapping[str, Any]] = {
    "ReduceMean": {},
    "ReduceSum": {},
    "ReduceL1": {},
    "ReduceL2": {},
    "ReduceSumSquare": {},
    "ReduceLogSum": {},
    "ReduceLogSumExp": {},
    "ReduceProd": {},
    "Softmax": {"axis": -1},
    "LogSoftmax": {"axis": -1},
    "LpNormalization": {"axis": -1},
    "CumSum": {},
    "GlobalAveragePool": {},
    "InstanceNormalization": {},
    "LayerNormalization": {"axis": -1},
    "GroupNormalization": {"num_groups": 1},
    "MatMul": {},
}
# What beside the input each takes.
_FURTHER: Mapping[str, tuple[Array, ...]] = {
    **{name: (np.array([-1]),) for name in _REDUCTIONS if name.startswith("Reduce")},
    "CumSum": (np.array(2),),
    "InstanceNormalization": (np.ones(1, np.float32), np.zeros(1, np.float32)),
    "LayerNormalization": (np.ones(1001, np.float32),),
    "GroupNormalization": (np.ones(1, np.float32), np.zeros(1, np.float32)),
    "MatMul": (tame("float32", (1001, 3), 5),),
}


def reductions() -> Iterator[Graph]:
    """Operators that add up many elements of a row."""
    for name, attributes in _REDUCTIONS.items():
        further = {f"c{i}": array for i, array in enumerate(_FURTHER.get(name, ()))}
        row = tame("float32", (1, 1, 1001), 3)
        yield graph(
            f"adds-{name}",
            [_node(name, ["x", *further], ["y"], **attributes)],
            {"x": np.abs(row) + 0.5 if name == "ReduceLogSum" else row},
            {"y": "float32"},
            further,
            shapes={"x": ["n", 1, 1001]},
        )
    yield graph(
        "adds-z-score",
        [
            _node("ReduceMean", ["x", "axis"], ["mean"]),
            _node("Sub", ["x", "mean"], ["centred"]),
            _node("ReduceL2", ["centred", "axis"], ["spread"]),
            _node("Div", ["centred", "spread"], ["y"]),
        ],
        {"x": tame("float32", (1, 1001), 4)},
        {"y": "float32"},
        {"axis": np.array([1])},
        shapes={"x": ["n", 1001]},
    )


def open_axes() -> Iterator[Graph]:
    """Axes of no stated length, which the graph cannot take any length of."""
    picture = {"x": tame("float32", (1, 3, 9, 11))}
    shapes: Mapping[str, Shape] = {"x": ["n", 3, "height", "width"]}
    yield graph(
        "open-conv",
        [_node("Conv", ["x", "w"], ["y"])],
        picture,
        {"y": "float32"},
        {"w": tame("float32", (2, 3, 7, 7))},
        shapes=shapes,
    )
    yield graph(
        "open-even",
        [
            _node("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
            _node("Resize", ["half", "", "twice"], ["again"], mode="nearest"),
            _node("Concat", ["x", "again"], ["y"], axis=1),
        ],
        {"x": tame("float32", (1, 3, 8, 12))},
        {"y": "float32"},
        {"twice": np.array([1, 1, 2, 2], np.float32)},
        shapes=shapes,
    )


def dependent_rows() -> Iterator[Graph]:
    """What a row's answer is depends on the others of its request, in each in another way."""
    rows = {"x": tame("float32", (3, 5))}
    shapes: Mapping[str, Shape] = {"x": ["n", 5]}
    plans: Mapping[str, list[onnx.NodeProto]] = {
        "most": [
            _node("ReduceMax", ["x"], ["most"], keepdims=0),
            _node("Max", ["most", "one"], ["least"]),
            _node("Div", ["x", "least"], ["y"]),
        ],
        "mean": [
            _node("ReduceMean", ["x", "first"], ["mean"]),
            _node("Sub", ["x", "mean"], ["centred"]),
            _node("Mul", ["centred", "little"], ["y"]),
        ],
        "sums": [_node("CumSum", ["x", "zero"], ["y"])],
        "softmax": [_node("Softmax", ["x"], ["y"], axis=0)],
        "sorted": [_node("TopK", ["x", "one-row"], ["y", "at"], axis=0)],
        "range": [
            _node("DynamicQuantizeLinear", ["x"], ["q", "scale", "shift"]),
            _node("DequantizeLinear", ["q", "scale", "shift"], ["y"]),
        ],
    }
    constants = {
        "one": np.array(1, np.float32),
        "first": np.array([0]),
        "little": np.array(1e-6, np.float32),
        "zero": np.array(0),
        "one-row": np.array([1]),
    }
    for name, nodes in plans.items():
        taken = {key for node in nodes for key in node.input}
        yield graph(
            f"rows-{name}",
            nodes,
            rows,
            {"y": "float32"},
            {key: array for key, array in constants.items() if key in taken},
            shapes=shapes,
        )
