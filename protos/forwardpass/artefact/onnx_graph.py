"""What an ONNX file asks for, read before ONNX Runtime sees it, and without the onnx package."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

# The operators that ONNX Runtime brings; any other domain would need a library of native code.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
# These run Python, or code that somebody compiled elsewhere.
_FORBIDDEN = {"PyOp", "EPContext"}


class GraphError(ValueError):
    """A graph that must not be loaded; the message says why."""


@dataclass(frozen=True, slots=True)
class External:
    """Weights outside the ONNX file: a file beside it, and the span of it that is used."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What is known of an ONNX file before it is loaded.

    Attributes:
        external: The weights that lie outside of it.
        unranked: The inputs of which it states no shape, not even a number of axes.
        has_control_flow: Whether an operator runs a graph within it (Loop, Scan, If): how often is
            a matter of values, so how long a run takes is not known from another run.
        divides: Whether there is a Div.
    """

    external: list[External]
    unranked: frozenset[str]
    has_control_flow: bool
    divides: bool


def read_graph(model: bytes) -> GraphFile:
    """Checks a graph's operators, and returns what it needs and leaves open.

    Raises:
        GraphError: Not an ONNX file, an operator that is not ONNX Runtime's own, or weights in a
            place that is no file beside the model.
    """
    parsed = parse_model(model)
    allowed = _DOMAINS | {function.domain for function in parsed.functions}
    external: list[External] = []
    has_control_flow = divides = False
    graphs = [parsed.graph, *parsed.functions]
    for node, tensors in _walk(graphs):
        if node is not None and node.domain not in allowed:
            raise GraphError(f"operator {node.op_type!r} is of the unknown domain {node.domain!r}")
        if node is not None and node.op_type in _FORBIDDEN:
            raise GraphError(f"operator {node.op_type!r} runs foreign code and is never loaded")
        if node is not None and any(one.HasField("g") or one.graphs for one in node.attribute):
            has_control_flow = True
        divides = divides or (node is not None and node.op_type == "Div")
        external.extend(_external(tensor) for tensor in tensors if tensor.data_location == 1)
    unranked = frozenset(
        value.name for value in parsed.graph.input if not value.type.tensor_type.HasField("shape")
    )
    return GraphFile(external, unranked, has_control_flow, divides)


def parse_model(model: bytes) -> Any:
    """Returns the part of an ONNX file that we know; written again, it has all of it.

    Raises:
        GraphError: Not an ONNX file.
    """
    try:
        return _model_class().FromString(model)
    except DecodeError:
        raise GraphError("the file is not an ONNX model") from None


@cache
def _model_class() -> type[Message]:
    data = (files("forwardpass.artefact") / "onnx_graph.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("forwardpass.onnx.ModelProto")
    )


def _walk(graphs: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Yields each node, of subgraphs too, with its tensors; and each graph's own with no node."""
    while graphs:
        graph = graphs.pop()
        if graph.DESCRIPTOR.name == "GraphProto":
            sparse = graph.sparse_initializer
            parts = [part for one in sparse for part in (one.values, one.indices)]
            yield None, [*graph.initializer, *parts]
        for node in graph.node:
            tensors: list[Any] = []
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                for one in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    tensors += [one.values, one.indices]
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
            yield node, tensors


def _external(tensor: Any) -> External:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = PurePosixPath(location)
    if not location or path.is_absolute() or ".." in path.parts or "\\" in location:
        raise GraphError(
            f"tensor {tensor.name!r} lies at {location!r}, which is no file beside the model"
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise GraphError(
            f"tensor {tensor.name!r} has an offset or length that is no number"
        ) from None
    if offset < 0 or (length is not None and length < 0):
        raise GraphError(f"tensor {tensor.name!r} has a negative offset or length")
    return External(location, offset, length)
