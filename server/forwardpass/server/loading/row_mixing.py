"""Operators of a graph that look at all rows of a batch.

Trying a few rows shows that a graph mixes them, but never that it does not: a maximum over the
batch may be that of another row. So an operator that reduces over axis 0, or takes the scale of
integers from all that it is given, counts as mixing rows, unless the graph's structure shows
otherwise: what it reduces does not come from the inputs' elements, or has no rows on that axis.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from forwardpass.artefact import parse_model
from forwardpass.server.errors import quote
from forwardpass.server.onnx.providers import CPU_ONLY
from forwardpass.server.onnx.session import Session, SessionError

# The axes that an operator looks along; None where they are not known: perhaps all.
Axes = tuple[int, ...] | None
_QUANTIZING = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
# The name of the rows where the graph has none for them.
_ROWS = "forwardpass_rows"
# Constants of no more elements may say how others are shaped.
_SHORT = 1024
# onnx.TensorProto's.
_EXTERNAL = 1
_INTEGERS: Mapping[int, np.dtype[Any]] = {6: np.dtype("<i4"), 7: np.dtype("<i8")}
# They tell extents, and nothing of the elements.
_EXTENTS = {"Shape", "Size"}
_STANDARD = ("", "ai.onnx", "com.microsoft")


def mixing_operator(data: bytes) -> str | None:
    """Returns what looks at all rows, in words; None where nothing does that is known to.

    Args:
        data: The ONNX file. If several inputs have rows, their axis 0 has one name.
    """
    model = parse_model(data)
    rows = _name_rows(model.graph)
    versions = {one.domain: one.version for one in model.opset_import}
    version = next((versions[name] for name in ("", "ai.onnx") if name in versions), 1)
    doubtful: dict[str, list[tuple[Any, Axes]]] = {}
    for node, axes in _looking(model.graph, version, _with_elements(model.graph)):
        if node.op_type in _QUANTIZING:
            return f"{_told(node)} takes its scale from all rows"
        doubtful.setdefault(node.input[0], []).append((node, axes))
    for inner in _inner_graphs(model):
        for node, _ in _looking(inner, version, None):
            return f"{_told(node)}, in a graph within the graph, may look at all rows"
    if not doubtful:
        return None
    given = [value.name for value in model.graph.input]
    shapes = _shapes(model, [*doubtful])
    inner = [extent for name in given for extent in shapes.get(name, ())[1:]]
    # An axis without a name is no other axis by that.
    inner_names = {extent for extent in inner if isinstance(extent, str)}
    for name, looking in doubtful.items():
        for node, axes in looking:
            if _may_cross(shapes.get(name), axes, rows, inner_names):
                return f"{_told(node)} looks along axis 0"
    return None


def _told(node: Any) -> str:
    return f"{node.op_type} {quote(node.output[0])}"


def _with_elements(graph: Any) -> set[str]:
    """Returns the values that come from the elements of the graph's inputs."""
    constants = {tensor.name for tensor in graph.initializer}
    values = {value.name for value in graph.input} - constants
    for node in graph.node:
        # What a graph within the graph takes from this one is not among its inputs.
        nested = any(one.HasField("g") or one.graphs for one in node.attribute)
        if node.op_type not in _EXTENTS and (nested or not values.isdisjoint(node.input)):
            values.update(node.output)
    return values


def _looking(
    graph: Any, version: int, with_elements: set[str] | None
) -> Iterator[tuple[Any, Axes]]:
    """Yields each operator that may look along axis 0, with its axes.

    Args:
        graph: The graph, or a function.
        version: Of the operators.
        with_elements: The values that matter; None where that is not known.
    """
    constants = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _STANDARD and node.output:
            constants[node.output[0]] = node
    for node in graph.node:
        if node.domain not in _STANDARD or not node.input or not node.output:
            continue
        if with_elements is not None and node.input[0] not in with_elements:
            continue
        axes = _axes(node, version, constants)
        if axes is None or any(axis <= 0 for axis in axes):
            yield node, axes


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator, its attributes, and the constants of its graph by name.

    Attributes:
        node: The operator.
        attributes: By name.
        version: Of the standard operators.
        constants: Tensors, and Constant nodes.
    """

    node: Any
    attributes: Mapping[str, Any]
    version: int
    constants: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute."""
        attribute = self.attributes.get(name)
        return default if attribute is None else int(attribute.i)

    def integers_of(self, place: int) -> Axes:
        """Returns the integers of an input, if they are constant."""
        given = self.node.input
        return _integers(self.constants.get(given[place])) if len(given) > place else None


def _reduced(one: _Operator) -> Axes:
    if "axes" in one.attributes:
        return tuple(one.attributes["axes"].ints)
    if len(one.node.input) > 1 and one.node.input[1]:
        return one.integers_of(1)
    return () if one.integer("noop_with_empty_axes", 0) else None


def _normalized(one: _Operator) -> Axes:
    axes = one.attributes.get("axes")
    return (0, 2, 3) if axes is None else tuple(axes.ints)


def _along(default: int) -> Callable[[_Operator], Axes]:
    return lambda one: (one.integer("axis", default),)


def _softmax(one: _Operator) -> Axes:
    # Before version 13 these took axis 1 and all that follow.
    return (one.integer("axis", 1 if one.version < 13 else -1),)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_LAST = ("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization")
# Of each operator that looks at several elements: along which axes.
_AXES: Mapping[str, Callable[[_Operator], Axes]] = {
    **dict.fromkeys(_QUANTIZING, lambda _: None),
    **dict.fromkeys([f"Reduce{name}" for name in _REDUCTIONS], _reduced),
    **dict.fromkeys(("ArgMax", "ArgMin"), _along(0)),
    **dict.fromkeys(("TopK", "LpNormalization", *_LAST), _along(-1)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    # Unless told otherwise, their axis 0 is time.
    **dict.fromkeys(("LSTM", "GRU", "RNN"), lambda one: () if one.integer("layout", 0) else (0,)),
    "BatchNormalization": lambda one: (0,) if one.integer("training_mode", 0) else (),
    "MeanVarianceNormalization": _normalized,
    "CumSum": lambda one: one.integers_of(1),
}


def _axes(node: Any, version: int, constants: Mapping[str, Any]) -> Axes:
    """Returns the axes that an operator looks along; none where each element is on its own."""
    axes_of = _AXES.get(node.op_type)
    if axes_of is None:
        return ()
    if any(one.ref_attr_name for one in node.attribute):
        return None
    attributes = {one.name: one for one in node.attribute}
    return axes_of(_Operator(node, attributes, version, constants))


def _integers(constant: Any) -> Axes:
    """Returns the integers of a constant; None where it is none, or they are not known."""
    if constant is not None and constant.DESCRIPTOR.name == "NodeProto":
        (attribute,) = constant.attribute[:1] or (None,)
        if attribute is None:
            return None
        if not attribute.HasField("t"):
            return _known([attribute.i] if attribute.HasField("i") else attribute.ints)
        constant = attribute.t
    layout = None if constant is None else _INTEGERS.get(constant.data_type)
    if layout is None:
        return None
    if constant.HasField("raw_data"):
        return _known(np.frombuffer(constant.raw_data, layout))
    return _known(constant.int64_data or constant.int32_data)


def _known(integers: Iterable[int]) -> Axes:
    return tuple(map(int, integers)) or None


def _inner_graphs(model: Any) -> Iterator[Any]:
    """Yields the functions, and the graphs that operators hold."""
    graphs = [*model.functions]
    yield from graphs
    graphs.append(model.graph)
    while graphs:
        for node in graphs.pop().node:
            for one in node.attribute:
                inner = [*([one.g] if one.HasField("g") else []), *one.graphs]
                yield from inner
                graphs.extend(inner)


def _name_rows(graph: Any) -> str:
    """Returns the name of axis 0 of the inputs, having given it one where it had none."""
    constants = {tensor.name for tensor in graph.initializer}
    rows = _ROWS
    for value in graph.input:
        if value.name not in constants:
            (extent,) = value.type.tensor_type.shape.dim[:1] or (None,)
            if extent is not None and not extent.dim_param:
                extent.dim_param = _ROWS
            rows = extent.dim_param if extent is not None else rows
    return rows


def _shapes(model: Any, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """Returns what ONNX Runtime infers of values within a graph, and of its inputs.

    The graph is changed: what is long of its weights becomes inputs, as their shapes are enough.
    """
    graph = model.graph
    known = {value.name for value in (*graph.input, *graph.output)}
    for name in names:
        if name not in known:
            graph.output.add(name=name)
    constants = [*graph.initializer]
    graph.ClearField("initializer")
    for tensor in constants:
        if prod(tensor.dims) <= _SHORT and tensor.data_location != _EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            value = graph.input.add(name=tensor.name)
            value.type.tensor_type.elem_type = tensor.data_type
            for extent in tensor.dims:
                value.type.tensor_type.shape.dim.add(dim_value=extent)
    try:
        session = Session(model.SerializeToString(), {}, 1, CPU_ONLY, optimize=False)
    except SessionError:
        return {}
    shapes = {node.name: node.shape for node in (*session.outputs, *session.inputs)}
    session.close()
    return shapes


def _may_cross(shape: Sequence[Any] | None, axes: Axes, rows: str, others: set[Any]) -> bool:
    """Whether one of the axes of a value may be the one that counts rows.

    Args:
        shape: Its extents: numbers, or names that its graph gives them; None where not known.
        axes: Those that are looked along.
        rows: The name of the rows.
        others: The names of other axes of the graph's inputs.
    """
    if not shape:
        # ONNX Runtime tells a scalar and any number of axes alike.
        return True
    looked = range(len(shape)) if axes is None else [axis % len(shape) for axis in axes]
    has_rows = rows in shape
    for axis in looked:
        extent = shape[axis]
        if extent == rows:
            return True
        # It may be the rows under another name, unless they are elsewhere.
        if axis == 0 and not has_rows and not isinstance(extent, int) and extent not in others:
            return True
    return False
