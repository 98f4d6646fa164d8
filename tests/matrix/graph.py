"""A small ONNX graph and what to ask it, with no shape stated that need not be.

Graphs are made to be unlike each other, not to be useful; what they should answer is whatever ONNX
Runtime answers in this process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forwardpass.wire import Array
from forwardpass.wire.dtypes import ELEMENT_TYPES, ElementType

TYPES: Mapping[str, ElementType] = {kind.name: kind for kind in ELEMENT_TYPES}
KINDS: Mapping[str, int] = {
    **{name: TensorProto.DataType.Value(name.upper()) for name in TYPES if name[:5] != "float"},
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
_TEXTS = ("", "a", "naïve", "雪", "🙂 \u200b", "nul\0inside", " ", "{}")
# Awkward ones among the floating-point numbers; every type has them.
_ODD = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-7, -65504.0)

Shape = Sequence[int | str | None]


@dataclass(frozen=True)
class Graph:
    """A graph and one request.

    Attributes:
        name: The model's name in the repository.
        model: The graph.
        inputs: What to send.
        files: Files beside the ONNX file, by name.
    """

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    files: Mapping[str, bytes] = field(default_factory=dict)


def graph(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, str],
    constants: Mapping[str, Array] | None = None,
    *,
    shapes: Mapping[str, Shape | None] | None = None,
    opset: int = 18,
    ir_version: int = 10,
    **fields: Any,
) -> Graph:
    """Returns a graph of the nodes.

    Args:
        name: The model's name.
        nodes: What it computes.
        inputs: What to send, which also gives each input's type and, unless stated, its shape.
        outputs: The type of each output, by name.
        constants: Initializers.
        shapes: The shape that the graph states of an input or output; None for not even a rank.
        opset: The version of ONNX's own operators.
        ir_version: The version of the file format.
        fields: More of the model, such as `functions`.
    """
    stated = {**{key: array.shape for key, array in inputs.items()}, **(shapes or {})}
    imports = [helper.make_opsetid("", opset), *fields.pop("opset_imports", [])]
    made = helper.make_graph(
        nodes,
        name,
        [value(key, dtype_name(array), stated[key]) for key, array in inputs.items()],
        [value(key, kind, stated.get(key)) for key, kind in outputs.items()],
        [tensor(key, array) for key, array in (constants or {}).items()],
    )
    return Graph(
        name,
        helper.make_model(made, opset_imports=imports, ir_version=ir_version, **fields),
        inputs,
    )


def value(name: str, kind: str, shape: Shape | None) -> onnx.ValueInfoProto:
    """Returns an input or output as a graph states it."""
    return helper.make_tensor_value_info(name, KINDS[kind], shape)


def tensor(name: str, array: Array) -> onnx.TensorProto:
    """Returns an initializer."""
    if array.dtype == object:
        texts = [text.encode() for text in array.ravel()]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, texts)
    return numpy_helper.from_array(array, name)


def dtype_name(array: Array) -> str:
    """Returns the name that TYPES has for an array's type."""
    return "string" if array.dtype == object else str(array.dtype)


def awkward(kind: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Returns values over the whole range of a type, infinities and NaN among them."""
    random = np.random.default_rng(seed)
    dtype = TYPES[kind].dtype
    count = int(np.prod(shape))
    if kind == "string":
        return np.array([*(_TEXTS[i] for i in random.integers(0, 8, count)), None], object)[
            :-1
        ].reshape(shape)
    if kind == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    flat = random.normal(size=count)
    odd = random.random(count) < 0.4
    flat[odd] = random.choice(_ODD, odd.sum())
    return flat.astype(dtype).reshape(shape)


def tame(kind: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Returns small values, which arithmetic does not carry out of the type."""
    if kind in ("string", "bool"):
        return awkward(kind, shape, seed)
    random = np.random.default_rng(seed)
    dtype = TYPES[kind].dtype
    if dtype.kind in "iu":
        return random.integers(0, 6, shape).astype(dtype)
    return random.normal(size=shape).astype(dtype)


def bits(array: Array) -> tuple[str, tuple[int, ...], Any]:
    """Returns type, shape and bytes, by which answers are compared; strings as UTF-8."""
    if array.dtype == object or array.dtype.kind in "US":
        texts = [t if isinstance(t, bytes) else t.encode() for t in array.ravel().tolist()]
        return "string", array.shape, texts
    return str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes()


def is_bfloat16(array: Array) -> bool:
    """Whether an array is of the type that numpy does not have."""
    return bool(array.dtype == ml_dtypes.bfloat16)
