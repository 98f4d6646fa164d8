"""Guards the integer divisions of a graph, of which one ends the process.

The smallest integer by -1 has no answer among integers of its size. ONNX Runtime leaves it to the
processor, which answers with SIGFPE: for int64 always, for int32 among the elements beyond a
multiple of 4. A guarded division changes the sign of the divisor -1, divides, and changes the sign
of the quotient: the same bits for all other operands, and the smallest integer for this pair, as
for the integers of 8 and 16 bits. A divisor that is known not to be -1 is left alone.

Only ONNX Runtime knows of which type a value within a graph is, and it tells that of outputs alone.
So a division of the graph itself is made an output. One in a subgraph or a function is replaced by
a function that only some types fit, and what ONNX Runtime then loads or refuses tells the type.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forwardpass.artefact import parse_model
from forwardpass.server.loading.source import Source, SourceError
from forwardpass.server.onnx.providers import CPU_ONLY, Provider
from forwardpass.server.onnx.session import Session, TypesError

# The element type of each division that must be guarded, by its number among the graph's divisions.
Guards = Mapping[int, int]

# onnx.TensorProto's and onnx.AttributeProto's.
_FLOAT, _INT32, _INT64 = 1, 6, 7
_OF_INT, _OF_TENSOR = 2, 4
_EXTERNAL = 1
_INTEGERS: Mapping[int, np.dtype[Any]] = {_INT32: np.dtype("<i4"), _INT64: np.dtype("<i8")}
_STANDARD = ("", "ai.onnx")
# These give floating-point numbers only.
_FLOATING = {"Sqrt", "Exp", "Log", "Reciprocal", "Sigmoid", "Tanh", "Erf", "Softmax", "Softplus"}
_DOMAIN = "forwardpass.division"
_Scope = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Division:
    """A Div.

    Attributes:
        node: The node.
        function: The function that it stands in; None for none.
        is_nested: Whether it stands in a function or a subgraph.
        is_harmless: Whether it is known not to divide integers by -1.
    """

    node: Any
    function: Any
    is_nested: bool
    is_harmless: bool


def find_guards(source: Source, providers: Sequence[Provider] = CPU_ONLY) -> Guards:
    """Returns which divisions of a graph must be guarded.

    Args:
        source: The graph and its weights.
        providers: What runs it, in order.

    Raises:
        SessionError: ONNX Runtime refuses the graph.
        SourceError: It stays unknown of which type a division is.
    """
    if not source.divides:
        return {}
    doubtful = {
        number: division
        for number, division in enumerate(_divisions(parse_model(source.model)))
        if not division.is_harmless
    }
    # The quotient's name; what it is taken from holds the whole graph.
    outer = {n: d.node.output[0] for n, d in doubtful.items() if not d.is_nested}
    nested = {n: d.node.output[0] for n, d in doubtful.items() if d.is_nested}
    del doubtful
    if not outer and not nested:
        return {}

    def types(replaced: Mapping[int, int], outputs: Collection[str] = ()) -> Mapping[str, str]:
        model = _edited(source.model, replaced, outputs)
        session = Session(model, source.weights, 1, providers, optimize=False)
        found = {node.name: node.type for node in session.outputs}
        session.close()
        return found

    def fits(replaced: Mapping[int, int]) -> bool:
        try:
            types(replaced)
        except TypesError:
            return False
        return True

    integers: list[int] = []
    try:
        found = types(dict.fromkeys(nested, _FLOAT), outer.values())
    except TypesError:
        found = types({}, outer.values())
        integers = _not_floating([*nested], fits)
    guards = {n: kind for n, name in outer.items() for kind in _kinds(found[name])}
    for number in integers:
        kind = next((kind for kind in _INTEGERS if fits({number: kind})), None)
        if kind is None:
            raise SourceError(
                f"the division that gives {nested[number]!r}, in a subgraph or a function, is of "
                "unknown or of several types: of integers it may end the process"
            )
        guards[number] = kind
    return guards


def guarded(model: bytes, guards: Guards) -> bytes:
    """Returns an ONNX file with its divisions guarded; the very bytes where none is to be."""
    return _edited(model, guards) if guards else model


def _kinds(text: str) -> list[int]:
    """Returns the element type, if it is one that must be guarded, from ONNX Runtime's name."""
    return [kind for kind, layout in _INTEGERS.items() if text == f"tensor({layout.name})"]


def _not_floating(numbers: list[int], fits: Callable[[Mapping[int, int]], bool]) -> list[int]:
    """Returns which of the divisions are not of floats, by halves: mostly none is."""
    if fits(dict.fromkeys(numbers, _FLOAT)):
        return []
    if len(numbers) == 1:
        return numbers
    half = len(numbers) // 2
    return _not_floating(numbers[:half], fits) + _not_floating(numbers[half:], fits)


def _divisions(model: Any) -> Iterator[_Division]:
    """Yields every division, always in the same order."""
    yield from _of_graph(model.graph, {}, None, model.ir_version)
    for function in model.functions:
        yield from _of_graph(function, {}, function, model.ir_version)


def _of_graph(
    graph: Any, outer: _Scope, function: Any, ir_version: int, *, is_nested: bool = False
) -> Iterator[_Division]:
    scope: _Scope = ChainMap({}, outer)
    scope.update((name, node) for node in graph.node for name in node.output)
    if graph.DESCRIPTOR.name == "GraphProto":
        constants = {tensor.name: tensor for tensor in graph.initializer}
        scope.update(constants)
        for value in graph.input:
            # From version 4 on an initializer that is an input too is a default, and no constant.
            if ir_version >= 4 or value.name not in constants:
                scope[value.name] = None
    for node in graph.node:
        if node.op_type == "Div" and node.domain in _STANDARD and len(node.output) == 1:
            inside = is_nested or function is not None
            yield _Division(node, function, inside, _is_harmless(node, scope))
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + [*attribute.graphs]:
                yield from _of_graph(inner, scope, function, ir_version, is_nested=True)


def _is_harmless(node: Any, scope: _Scope) -> bool:
    """Whether an operand shows that no integer is divided by -1."""
    values = [scope.get(name) for name in node.input]
    if any(value is not None and _is_no_integer(value) for value in values):
        return True
    divisor = values[-1] if values else None
    if divisor is None:
        return False
    if divisor.DESCRIPTOR.name == "TensorProto":
        return not _may_have_minus_one(divisor)
    constant = _constant(divisor)
    if constant is None:
        return False
    if constant.HasField("t"):
        return not _may_have_minus_one(constant.t)
    numbers = [constant.i] if constant.HasField("i") else constant.ints
    return len(numbers) > 0 and -1 not in numbers


def _is_no_integer(value: Any) -> bool:
    """Whether a constant, or what a node gives, is certainly of no type that must be guarded."""
    if value.DESCRIPTOR.name == "TensorProto":
        return value.data_type not in _INTEGERS
    if value.domain not in _STANDARD:
        return False
    if value.op_type == "Cast":
        # It is 0 where a function gets it as an attribute of its own.
        return any(one.name == "to" and one.i and one.i not in _INTEGERS for one in value.attribute)
    constant = _constant(value)
    if constant is None:
        return value.op_type in _FLOATING
    if constant.HasField("t"):
        return constant.t.data_type not in _INTEGERS
    return constant.HasField("f") or len(constant.floats) > 0


def _constant(node: Any) -> Any:
    """Returns the attribute that holds what a Constant gives; None for any other node."""
    if node.op_type != "Constant" or node.domain not in _STANDARD or len(node.attribute) != 1:
        return None
    return node.attribute[0]


def _may_have_minus_one(tensor: Any) -> bool:
    """Whether an element may be -1; weights in a file of their own are not looked into."""
    if tensor.data_location == _EXTERNAL or tensor.data_type not in _INTEGERS:
        return True
    if tensor.HasField("raw_data"):
        layout = _INTEGERS[tensor.data_type]
        whole = len(tensor.raw_data) // layout.itemsize
        return bool((np.frombuffer(tensor.raw_data, layout, whole) == -1).any())
    return -1 in (tensor.int32_data if tensor.data_type == _INT32 else tensor.int64_data)


def _edited(data: bytes, replaced: Mapping[int, int], outputs: Collection[str] = ()) -> bytes:
    """Returns an ONNX file with divisions replaced and with more outputs.

    Args:
        data: The file.
        replaced: What some divisions are replaced by, by their numbers: a guarded one of the
            element type, or one that takes floats alone.
        outputs: Names of values within the graph.
    """
    model = parse_model(data)
    domain = _DOMAIN
    while domain in {function.domain for function in model.functions}:
        domain += "_"
    users: dict[Any, Any] = {domain: model}
    for number, division in enumerate([*_divisions(model)]):
        if number in replaced:
            division.node.op_type, division.node.domain = _name(replaced[number]), domain
            if division.function is not None:
                users[division.function.domain, division.function.name] = division.function
    if replaced:
        versions = {one.domain: one.version for one in model.opset_import}
        version = next((versions[name] for name in _STANDARD if name in versions), 1)
        for user in users.values():
            user.opset_import.add(domain=domain, version=1)
        for kind in {*replaced.values()}:
            _add_function(model, kind, domain, version)
    known = {output.name for output in model.graph.output}
    for name in outputs:
        if name not in known:
            model.graph.output.add(name=name)
    edited: bytes = model.SerializeToString()
    return edited


def _name(kind: int) -> str:
    return f"Divide{kind}"


def _add_function(model: Any, kind: int, domain: str, version: int) -> None:
    """Adds the function that a division is replaced by.

    Args:
        model: The ONNX file.
        kind: An integer type for its guarded division, or float for a plain one of floats alone.
        domain: The function's domain.
        version: The version of the operators that the model uses.
    """
    function = model.functions.add(
        name=_name(kind), domain=domain, input=["dividend", "divisor"], output=["quotient"]
    )
    function.opset_import.add(domain="", version=version)

    def add(operator: str, inputs: Sequence[str], output: str) -> Any:
        return function.node.add(op_type=operator, input=inputs, output=[output])

    def cast(value: str, to: int, output: str) -> None:
        add("Cast", [value], output).attribute.add(name="to", i=to, type=_OF_INT)

    def constant(value: list[float] | float, output: str) -> None:
        # Before version 9 of the operators a constant is a float.
        array = np.array(value, "<f4")
        attribute = add("Constant", [], f"float_{output}").attribute.add(
            name="value", type=_OF_TENSOR
        )
        attribute.t.dims.extend(array.shape)
        attribute.t.data_type, attribute.t.raw_data = _FLOAT, array.tobytes()
        cast(f"float_{output}", kind, output)

    if kind == _FLOAT:
        add("Sqrt", ["divisor"], "root")
        add("Div", ["dividend", "divisor"], "quotient")
        return
    constant(-1, "minus_one")
    constant([1, -1], "signs")
    add("Equal", ["divisor", "minus_one"], "is_minus_one")
    cast("is_minus_one", _INT32, "index")
    add("Gather", ["signs", "index"], "sign")
    add("Mul", ["divisor", "sign"], "safe_divisor")
    add("Div", ["dividend", "safe_divisor"], "safe_quotient")
    add("Mul", ["safe_quotient", "sign"], "quotient")
