"""Which values the inputs of a graph may have, as far as its operators tell.

An index must lie within what it picks from, and a text is more likely to be taken where it is one
that the graph knows. What this tells is used for trials only: what callers send is never refused by
it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forwardpass.artefact import parse_model
from forwardpass.server.loading.source import Source

# Operators whose output has the values of their first input.
_PASSING = {
    *("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
    *("Expand", "Clip", "Concat"),
}
# Operator -> its input that is an index into its first one, along `axis`.
_PICKING = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1}
# Operator -> inputs that are indices, and the tables whose rows they pick.
_EMBEDDING = {
    "EmbedLayerNormalization": ((0, 2), (1, 4)),
    "QEmbedLayerNormalization": ((0, 2), (1, 4)),
}
# Operator -> its inputs that are extents, numbers of repetitions or positions: small ones.
_SIZING = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "TopK", "Pad", "Split", "CumSum", "Trilu"), (1,)),
    **dict.fromkeys(("ConstantOfShape", "Loop"), (0,)),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "Resize": (3,),
    "OneHot": (0, 1),
    "ReverseSequence": (1,),
}
# A table that is not among the weights has one row at least; what is a size is one.
_FIRST, _ONE = (0, 1), (1, 2)
_MAX_TEXTS = 64
_MAX_TEXT_BYTES = 256


@dataclass(frozen=True, slots=True)
class InputValues:
    """What the operators tell of the inputs.

    Attributes:
        ranges: By input: the least integer, and the first that is too great.
        texts: Some that occur in the graph.
    """

    ranges: Mapping[str, tuple[int, int]]
    texts: tuple[str, ...] = ()


def values_of(source: Source) -> InputValues:
    """Returns what a version's graph tells of its inputs; nothing where golden data tell more."""
    return InputValues({}) if source.golden else input_values(parse_model(source.model))


def input_values(model: Any) -> InputValues:
    """Returns what a graph tells of its inputs' values.

    Args:
        model: As `parse_model` returns it.
    """
    graph = model.graph
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # By value: the inputs of the graph that it has its elements from.
    origins = {value.name: {value.name} for value in graph.input if value.name not in tables}
    ranges: dict[str, tuple[int, int]] = {}
    for node in graph.node:
        for name, (least, end) in _demands(node, tables):
            for origin in origins.get(name, ()):
                low, high = ranges.get(origin, (least, end))
                ranges[origin] = max(low, least), min(high, end)
        if node.op_type in _PASSING and node.output:
            passed = set().union(*(origins.get(name, set()) for name in _passed(node)))
            if passed:
                origins[node.output[0]] = passed
    # Of demands that contradict each other none is known.
    sound = {name: pair for name, pair in ranges.items() if pair[0] < pair[1]}
    return InputValues(sound, tuple(_texts(graph)))


def _passed(node: Any) -> Iterator[str]:
    yield from node.input if node.op_type == "Concat" else node.input[:1]


def _demands(
    node: Any, tables: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields which values must lie in which range for an operator to take them."""
    given = node.input
    if (place := _PICKING.get(node.op_type)) is not None and len(given) > place:
        extents = tables.get(given[0], ())
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        fits = -len(extents) <= axis < len(extents)
        yield given[place], (0, extents[axis]) if fits else _FIRST
    for index, table in _EMBEDDING.get(node.op_type, ()):
        if len(given) > table and given[index]:
            yield given[index], (0, tables[given[table]][0]) if tables.get(given[table]) else _FIRST
    for place in _SIZING.get(node.op_type, ()):
        if len(given) > place:
            yield given[place], _ONE


def _texts(graph: Any) -> Iterator[str]:
    """Yields short texts of the graph's attributes and constants, each once."""
    found: set[bytes] = set()
    for texts in (
        *(tensor.string_data for tensor in graph.initializer),
        *(one.strings for node in graph.node for one in node.attribute),
        *(one.t.string_data for node in graph.node for one in node.attribute if one.HasField("t")),
    ):
        for text in texts:
            if len(found) == _MAX_TEXTS:
                return
            if text not in found and 0 < len(text) <= _MAX_TEXT_BYTES:
                found.add(text)
                yield text.decode(errors="replace")
