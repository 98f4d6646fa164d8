"""Changes of a graph that its operators do not notice."""

from collections.abc import Sequence

import onnx


def rename_input(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Gives an input of a graph another name, in the graphs within it too."""
    for node in graph.node:
        for place, given in enumerate(node.input):
            if given == name:
                node.input[place] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename_input(inner, name, new)
    for value in graph.input:
        if value.name == name:
            value.name = new


def put_first(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Adds nodes before those of a graph, as what they give is taken by those."""
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *after])
