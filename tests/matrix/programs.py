"""Graphs that are programs: functions, branches, loops, other domains, quantisation."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from forwardpass.wire import Array

from .graph import Graph, awkward, graph, tame, value

_node = helper.make_node
_X = tame("float32", (2, 3), 1)


def functions() -> Iterator[Graph]:
    """Functions that the model brings: nested, with attributes, named like an operator."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [_node("Add", ["a", "a"], ["b"])], imports
    )
    fourfold = helper.make_function(
        "mine",
        "Fourfold",
        ["a"],
        ["c"],
        [
            _node("Twice", ["a"], ["b"], domain="mine"),
            _node("Twice", ["b"], ["c"], domain="mine"),
        ],
        imports,
    )
    leak = _node("LeakyRelu", ["a"], ["b"])
    leak.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky = helper.make_function("mine", "Leaky", ["a"], ["b"], [leak], imports, ["slope"])
    relu = helper.make_function("mine", "Relu", ["a"], ["b"], [_node("Neg", ["a"], ["b"])], imports)
    uses = {
        "plain": (_node("Twice", ["x"], ["y"], domain="mine"), [twice]),
        "nested": (_node("Fourfold", ["x"], ["y"], domain="mine"), [twice, fourfold]),
        "attribute": (_node("Leaky", ["x"], ["y"], domain="mine", slope=0.25), [leaky]),
        "namesake": (_node("Relu", ["x"], ["y"], domain="mine"), [relu]),
    }
    for name, (use, defined) in uses.items():
        yield graph(
            f"function-{name}",
            [use],
            {"x": _X},
            {"y": "float32"},
            shapes={"x": ["n", 3]},
            functions=defined,
            opset_imports=imports[1:],
        )


def control_flow() -> Iterator[Graph]:
    """If, Loop and Scan, which look at values of the graph around them."""
    for flag in (True, False):
        branches = {
            f"{name}_branch": helper.make_graph(
                [_node(operator, ["x"], ["r"])], name, [], [value("r", "float32", None)]
            )
            for name, operator in (("then", "Neg"), ("else", "Abs"))
        }
        yield graph(
            f"if-{flag}".lower(),
            [_node("If", ["flag"], ["y"], **branches)],
            {"flag": np.array(flag), "x": _X},
            {"y": "float32"},
        )
    for count in (0, 3):
        body = helper.make_graph(
            [
                _node("Add", ["before", "x"], ["after"]),
                _node("Identity", ["going"], ["on"]),
                _node("ReduceSum", ["after"], ["row"]),
            ],
            "body",
            [value("i", "int64", []), value("going", "bool", []), value("before", "float32", None)],
            [
                value("on", "bool", []),
                value("after", "float32", None),
                value("row", "float32", None),
            ],
        )
        yield graph(
            f"loop-{count}",
            [_node("Loop", ["count", "", "x"], ["last", "rows"], body=body)],
            {"count": np.array(count), "x": _X},
            {"last": "float32", "rows": "float32"},
        )
    step = helper.make_graph(
        [_node("Add", ["s", "e"], ["t"]), _node("Identity", ["t"], ["o"])],
        "step",
        [value("s", "float32", [3]), value("e", "float32", [3])],
        [value("t", "float32", [3]), value("o", "float32", [3])],
    )
    yield graph(
        "scan",
        [_node("Scan", ["start", "x"], ["end", "sums"], body=step, num_scan_inputs=1)],
        {"start": tame("float32", (3,)), "x": _X},
        {"end": "float32", "sums": "float32"},
        shapes={"x": ["time", 3]},
    )


def domains() -> Iterator[Graph]:
    """Operators of the other domains that ONNX Runtime brings, and quantised ones."""
    ml, microsoft = helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("com.microsoft", 1)
    texts = np.array([["a", "b"], ["?", "a"]], object)
    yield graph(
        "ml-labels",
        [
            _node(
                "LabelEncoder",
                ["x"],
                ["y"],
                domain="ai.onnx.ml",
                keys_strings=["a", "b"],
                values_int64s=[7, 8],
            )
        ],
        {"x": texts},
        {"y": "int64"},
        shapes={"x": ["n", 2]},
        opset_imports=[ml],
    )
    yield graph(
        "ml-texts",
        [_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER", locale="C")],
        {"x": np.array(["a", "Bc", ""], object)},
        {"y": "string"},
    )
    yield graph(
        "gelu",
        [_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
        {"x": _X},
        {"y": "float32"},
        opset_imports=[microsoft],
    )
    scale: dict[str, Array] = {"scale": np.array(0.1, np.float32), "zero": np.array(100, np.uint8)}
    yield graph(
        "quantized",
        [
            _node("QuantizeLinear", ["x", *scale], ["q"]),
            _node("DequantizeLinear", ["q", *scale], ["y"]),
            _node("MatMulInteger", ["q", "w"], ["m"]),
        ],
        {"x": _X},
        {"q": "uint8", "y": "float32", "m": "int32"},
        {**scale, "w": awkward("int8", (3, 2))},
        shapes={"x": ["n", 3]},
    )
    made = graph(
        "four-bits",
        [_node("DequantizeLinear", ["w", "scale"], ["d"]), _node("MatMul", ["x", "d"], ["y"])],
        {"x": _X},
        {"y": "float32"},
        {"scale": np.array(0.5, np.float32)},
        opset=21,
    )
    made.model.graph.initializer.append(
        helper.make_tensor("w", TensorProto.INT4, [3, 2], [1, -2, 3, -4, 7, -8])
    )
    yield made
    weights = {"w": tame("float32", (1, 12, 3)), "r": tame("float32", (1, 12, 4))}
    recurrent = {"w": weights["w"], "r": tame("float32", (1, 12, 3))}
    yield graph(
        "gru",
        [_node("GRU", ["x", *recurrent], ["all", "last"], hidden_size=4)],
        {"x": tame("float32", (5, 2, 3))},
        {"all": "float32", "last": "float32"},
        weights,
        shapes={"x": ["time", "n", 3]},
    )


def refused() -> Iterator[tuple[Graph, str]]:
    """Graphs that give or take what no tensor can hold, with what must be said of them."""
    made = graph(
        "no-tensor-sequence", [_node("SequenceConstruct", ["x"], ["odd one"])], {"x": _X}, {}
    )
    made.model.graph.output.append(
        helper.make_tensor_sequence_value_info("odd one", TensorProto.FLOAT, None)
    )
    yield made, "output 'odd one' is a seq(tensor(float)), which cannot be sent"
    ml = helper.make_opsetid("ai.onnx.ml", 3)
    made = graph(
        "no-tensor-map",
        [
            _node(
                "ZipMap",
                ["x"],
                ["scores"],
                domain="ai.onnx.ml",
                classlabels_strings=["a", "b", "c"],
            )
        ],
        {"x": _X},
        {},
        opset_imports=[ml],
    )
    key = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, None))
    made.model.graph.output.append(
        helper.make_value_info("scores", helper.make_sequence_type_proto(key))
    )
    yield made, "output 'scores' is a seq(map(string,tensor(float))), which cannot be sent"
    made = graph(
        "no-tensor-optional", [_node("OptionalHasElement", ["maybe"], ["y"])], {}, {"y": "bool"}
    )
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2]))
    made.model.graph.input.append(helper.make_value_info("maybe", optional))
    yield made, "input 'maybe' is a optional(tensor(float)), which cannot be sent"
    for kind in ("FLOAT8E4M3FN", "INT4"):
        made = graph(
            f"no-tensor-{kind.lower()}",
            [_node("Cast", ["x"], ["y"], to=TensorProto.DataType.Value(kind))],
            {"x": _X},
            {},
            opset=21,
        )
        made.model.graph.output.append(
            helper.make_tensor_value_info("y", TensorProto.DataType.Value(kind), None)
        )
        yield made, f"output 'y' is a tensor({kind.lower()}), which cannot be sent"
    cast = [_node("Cast", ["x"], ["low"], to=TensorProto.BFLOAT16)]
    yield (
        graph("text-to-bfloat16", cast, {"x": np.array(["1"], object)}, {"low": "bfloat16"}),
        "it takes text and gives 'low' as bfloat16",
    )
