"""Graphs of unusual make: names, files beside them, versions of the format, control flow."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from .graph import Graph, awkward, graph, tame, tensor, value

_node = helper.make_node
ODD_NAMES = (
    *("a/b/c", "serving_default_x:0", "model/layer.0/MatMul:0", "/leading", "::", "a:b:c"),
    *('{"name": "x"}', "[0]", "x\"y'z\\", "a,b=c;d", "${x}", "%s%n", "../../x", "x\0y"),
    *("雪", "naïve", "🙂", "e\u0301", "\u202eabc", " ", "\t\n", "\u200b", "None", "0", "-1"),
    *("inputs", "outputs", "model", "x" * 300),
)
_X = tame("float32", (2, 3), 1)


def names() -> Iterator[Graph]:
    """Tensors of odd names, as input, as output and between."""
    for index, name in enumerate(ODD_NAMES):
        nodes = [_node("Neg", [name], [f"{name}~"]), _node("Abs", [f"{name}~"], [f"{name}!"])]
        yield graph(f"name-{index}", nodes, {name: _X}, {f"{name}!": "float32"})
    yield graph(
        "name-all",
        [_node("Identity", [name], [f"{name}:out"]) for name in ODD_NAMES],
        {name: tame("int16", (2, i), i) for i, name in enumerate(ODD_NAMES)},
        {f"{name}:out": "int16" for name in ODD_NAMES},
    )


def newest_opset() -> int:
    """Returns the newest version of ONNX's operators that ONNX Runtime loads here."""
    newest = 0
    for opset in range(7, onnx.defs.onnx_opset_version() + 1):
        made = graph("o", [_node("Neg", ["x"], ["y"])], {"x": _X}, {"y": "float32"}, opset=opset)
        try:
            ort.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001  # which one it raises has changed
            break
        newest = opset
    return newest


def opsets() -> Iterator[Graph]:
    """Operators whose form changed over time, in each version's own form."""
    for opset in range(7, newest_opset() + 1):
        axes = {"axes": np.array([0])} if opset >= 13 else {}
        stated: dict[str, Any] = {} if axes else {"axes": [0]}
        nodes = [
            _node("Gemm", ["x", "w", "c"], ["g"]),
            _node("BatchNormalization", ["g", "s", "c", "c", "s"], ["n"]),
            _node("Softmax", ["n"], ["p"], axis=1),
            _node("Unsqueeze", ["p", *axes], ["u"], **stated),
            _node("ReduceSum", ["u", *axes], ["y"], **stated),
            _node("Dropout", ["y"], ["d"]),
        ]
        constants = {
            "w": tame("float32", (3, 4)),
            "c": tame("float32", (4,)),
            "s": np.array([1, 2, 3, 4], np.float32),
        }
        yield graph(
            f"opset-{opset}",
            nodes,
            {"x": _X},
            {"y": "float32", "d": "float32"},
            constants | axes,
            shapes={"x": ["n", 3]},
            opset=opset,
            ir_version=3 if opset < 9 else 8 if opset < 19 else 10,
        )


def initializers() -> Iterator[Graph]:
    """Constants in each of the places that they may stand in."""
    weights = tame("float32", (3, 2))
    for ir_version in (3, 4, 10):
        made = graph(
            f"initializer-as-input-{ir_version}",
            [_node("MatMul", ["x", "w"], ["y"])],
            {"x": _X},
            {"y": "float32"},
            {"w": weights},
            ir_version=ir_version,
            opset=8,
        )
        made.model.graph.input.insert(0, value("w", "float32", (3, 2)))
        yield made
    made = graph(
        "initializer-sparse", [_node("MatMul", ["x", "w"], ["y"])], {"x": _X}, {"y": "float32"}
    )
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, -2])
    places = helper.make_tensor("w_places", TensorProto.INT64, [2], [1, 4])
    made.model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 2]))
    yield made
    yield graph("constant-answers", [], {}, {"w": "float32"}, {"w": weights})
    texts = awkward("string", (2, 2))
    nodes = [
        _node("Constant", [], ["c"], value=tensor("t", texts)),
        _node("Identity", ["c"], ["y"]),
    ]
    yield graph("constant-texts", nodes, {}, {"y": "string"})
    yield graph("input-is-output", [], {"x": _X}, {"x": "float32"}, shapes={"x": ["n", 3]})


def inputs_and_outputs() -> Iterator[Graph]:
    """Many, few, unused, of unlike types, of unlike first axes, of no stated rank."""
    many = {f"x{i}": tame("float32", (2, 1 + i % 3), i) for i in range(60)}
    yield graph(
        "many",
        [_node("Neg", [name], [f"y{name}"]) for name in many],
        many,
        {f"y{name}": "float32" for name in many},
        shapes={name: ["n", None] for name in many},
    )
    kinds = ("string", "bfloat16", "bool", "float16", "int8", "uint64", "float64")
    for kind in kinds:
        mixed = {other: awkward(other, (2, 2), 3) for other in kinds} | {"s": awkward(kind, (), 4)}
        # ONNX Runtime's Python interface has no way from text to bfloat16.
        for without in ("string", "bfloat16"):
            given = {name: kind if name == "s" else name for name in mixed}
            wanted = {name: to for name, to in given.items() if to != without}
            taken = mixed if without == "bfloat16" else {name: mixed[name] for name in wanted}
            yield graph(
                f"mixed-{kind}-no-{without}",
                [_node("Identity", [name], [f"{name}-out"]) for name in wanted],
                taken,
                {f"{name}-out": to for name, to in wanted.items()},
            )
    yield graph(
        "unused",
        [_node("Neg", ["x"], ["y"])],
        {"x": _X, "never": awkward("int64", (3,)), "text": awkward("string", (1,))},
        {"y": "float32"},
    )
    yield graph(
        "axes-apart",
        [_node("Neg", ["x"], ["y"]), _node("Neg", ["z"], ["w"])],
        {"x": _X, "z": tame("float32", (5,))},
        {"y": "float32", "w": "float32"},
        shapes={"x": ["n", 3], "z": ["m"]},
    )
    for rank in range(5):
        shape = (2, 3, 1, 2)[:rank]
        yield graph(
            f"rankless-{rank}",
            [_node("Neg", ["x"], ["y"])],
            {"x": tame("float32", shape)},
            {"y": "float32"},
            shapes={"x": None},
        )
    pooled = tame("float32", (1, 1, 4, 4))
    made = graph(
        "optional-output",
        [
            _node("MaxPool", ["x"], ["y", "at"], kernel_shape=[2, 2]),
            _node("Clip", ["y", "", "most"], ["z"]),
        ],
        {"x": pooled},
        {"z": "float32", "at": "int64"},
        {"most": np.array(0.5, np.float32)},
    )
    yield made
    yield graph(
        "shape-by-value",
        [_node("Reshape", ["x", "shape"], ["y"]), _node("ConstantOfShape", ["shape"], ["zeros"])],
        {"x": _X, "shape": np.array([3, 1, 2])},
        {"y": "float32", "zeros": "float32"},
        shapes={"shape": ["rank"]},
    )


def external() -> Iterator[Graph]:
    """Weights in files beside the ONNX file."""
    places = {
        "plain": [("weights.bin", 0, True)],
        "without-length": [("weights.bin", 0, False)],
        "in-folder": [("deep/er/weights.bin", 0, True)],
        "with-dot": [("./weights.bin", 0, True)],
        "odd-name": [("wéights of 雪.bin", 0, True)],
        "at-an-offset": [("weights.bin", 4096, True)],
        "in-two-spans": [("weights.bin", 0, True), ("weights.bin", 64, True)],
        "in-two-files": [("a", 0, True), ("b", 0, True)],
    }
    for kind in ("float32", "float16", "int64", "bool"):
        for name, spans in places.items():
            if kind in ("float32", "int64") or name == "plain":
                yield _external(f"external-{name}-{kind}", kind, spans)


def _external(name: str, kind: str, spans: list[tuple[str, int, bool]]) -> Graph:
    files: dict[str, bytes] = {}
    stored, nodes = [], []
    for index, (location, offset, stated) in enumerate(spans):
        array = awkward(kind, (2, 3), index)
        data = array.tobytes()
        there = files.get(location, b"").ljust(offset, b"\xff")
        files[location] = there[:offset] + data
        made = numpy_helper.from_array(array, f"w{index}")
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        facts = {"location": location, "offset": str(offset)}
        for key, text in (facts | ({"length": str(len(data))} if stated else {})).items():
            made.external_data.add(key=key, value=text)
        stored.append(made)
        nodes.append(_node("Concat", ["x", f"w{index}"], [f"y{index}"], axis=0))
    outputs = {f"y{index}": kind for index in range(len(spans))}
    whole = graph(name, nodes, {"x": awkward(kind, (1, 3), 9)}, outputs, shapes={"x": ["n", 3]})
    whole.model.graph.initializer.extend(stored)
    return Graph(whole.name, whole.model, whole.inputs, files)
