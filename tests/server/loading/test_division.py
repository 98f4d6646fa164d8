"""Which divisions are guarded, what is asked to find that out, and what a guard leaves alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tiny_models import Publisher, TinyModel, divider, model

from forwardpass.server.loading.division import find_guards, guarded
from forwardpass.server.loading.files import RepositoryFiles
from forwardpass.server.loading.source import Source, SourceError, read_source
from forwardpass.server.onnx.session import Session, SessionError
from forwardpass.wire import Array

INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT
SMALLEST = np.iinfo(np.int64).min


def source_of(repository: Publisher, tiny: TinyModel) -> Source:
    folder = repository("div", tiny)
    return read_source(RepositoryFiles(repository.root), folder, manifest_required=False)


def value(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["n"])


def dividing(
    *nodes: NodeProto, kind: int = INT64, functions: tuple[FunctionProto, ...] = (), **fields: Any
) -> TinyModel:
    """A graph from `a` and `b` to `y`."""
    graph = helper.make_graph(
        nodes, "tiny", [value("a", kind), value("b", kind)], [value("y", kind)], **fields
    )
    imports = [helper.make_opsetid("", 18)]
    imports += [helper.make_opsetid(function.domain, 1) for function in functions]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    return TinyModel(made)


def unloadable(tiny: TinyModel) -> TinyModel:
    """Adds what ONNX Runtime refuses: whoever asks it for types fails."""
    tiny.graph.graph.node.append(helper.make_node("Identity", ["nowhere"], ["nothing"]))
    return tiny


def run(source: Source, guards: Any, a: list[int], b: list[int]) -> list[int]:
    session = Session(guarded(source.model, guards), source.weights, 1)
    (quotient,) = session.run(["y"], {"a": np.array(a), "b": np.array(b)})
    numbers: list[int] = quotient.tolist()
    return numbers


def by_constant(**attributes: Any) -> TinyModel:
    constant = helper.make_node("Constant", [], ["c"], **attributes)
    return dividing(constant, helper.make_node("Div", ["a", "c"], ["y"]))


def by(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


HARMLESS: dict[str, Callable[[], TinyModel]] = {
    "no division": lambda: dividing(helper.make_node("Mul", ["a", "b"], ["y"])),
    "by an initializer": lambda: divider(INT64, by(2, -3)),
    "by an initializer in fields": lambda: dividing(
        helper.make_node("Div", ["a", "c"], ["y"]),
        initializer=[helper.make_tensor("c", INT64, [2], [2, -3])],
    ),
    "by a constant": lambda: by_constant(value=numpy_helper.from_array(by(2))),
    "by a constant number": lambda: by_constant(value_int=2),
    "by constant numbers": lambda: by_constant(value_ints=[2, 3]),
    "of floats by a constant": lambda: by_constant(value_float=-1.0),
    "by a root": lambda: dividing(
        helper.make_node("Sqrt", ["b"], ["c"]),
        helper.make_node("Div", ["a", "c"], ["y"]),
        kind=FLOAT,
    ),
    "of what is made a float": lambda: dividing(
        helper.make_node("Cast", ["a"], ["c"], to=FLOAT),
        helper.make_node("Div", ["c", "b"], ["y"]),
        kind=FLOAT,
    ),
    "of another domain": lambda: dividing(
        helper.make_node("Div", ["a", "b"], ["y"], domain="com.microsoft")
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_division_of_integers_by_minus_one_is_not_even_asked_about(
    repository: Publisher, name: str
) -> None:
    source = source_of(repository, unloadable(HARMLESS[name]()))
    guards = find_guards(source)
    assert guards == {}
    assert guarded(source.model, guards) is source.model


def test_what_onnx_runtime_must_be_asked_about_fails_as_it_fails(repository: Publisher) -> None:
    with pytest.raises(SessionError, match="nowhere"):
        find_guards(source_of(repository, unloadable(divider(INT64))))


def with_default() -> TinyModel:
    """What divides is given by the graph, unless a caller gives another."""
    tiny = divider(INT64, by(2))
    tiny.graph.graph.input.append(value("b", INT64))
    return tiny


def outside() -> TinyModel:
    tiny = divider(INT64, by(2))
    (tensor,) = tiny.graph.graph.initializer
    set_external_data(tensor, "weights.bin", 0, 8)
    tensor.ClearField("raw_data")
    return tiny


GUARDED: dict[str, Callable[[], TinyModel]] = {
    "by an input": lambda: divider(INT64),
    "by -1": lambda: divider(INT64, by(2, -1)),
    "by -1 in fields": lambda: dividing(
        helper.make_node("Div", ["a", "c"], ["y"]),
        initializer=[helper.make_tensor("c", INT64, [2], [2, -1])],
    ),
    "by a constant -1": lambda: by_constant(value=numpy_helper.from_array(by(-1))),
    "by a constant number -1": lambda: by_constant(value_int=-1),
    "by constant numbers with -1": lambda: by_constant(value_ints=[2, -1]),
    "by a default": with_default,
    "by weights": outside,
    "by a shape": lambda: dividing(
        helper.make_node("Shape", ["b"], ["c"]), helper.make_node("Div", ["a", "c"], ["y"])
    ),
    "of its other name": lambda: dividing(
        helper.make_node("Div", ["a", "b"], ["y"], domain="ai.onnx")
    ),
    "of the oldest operators": lambda: divider(INT64, opset=7),
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_may_divide_by_minus_one_is_guarded(repository: Publisher, name: str) -> None:
    tiny = GUARDED[name]()
    (repository.root / "div" / "1").mkdir(parents=True)
    (repository.root / "div" / "1" / "weights.bin").write_bytes(by(2).tobytes())
    (repository.root / "div" / "1" / "model.onnx").write_bytes(tiny.graph.SerializeToString())
    files = RepositoryFiles(repository.root)
    source = read_source(files, repository.root / "div" / "1", manifest_required=False)
    guards = find_guards(source)
    assert guards == {0: INT64}
    session = Session(guarded(source.model, guards), source.weights, 1)
    names = {node.name for node in session.inputs}
    inputs = {"a": by(SMALLEST), "b": by(1 if name == "by a shape" else -1)}
    session.run(["y"], {key: array for key, array in inputs.items() if key in names})


@pytest.mark.parametrize("kind", [FLOAT, TensorProto.UINT8, TensorProto.INT16])
def test_what_turns_out_to_be_of_another_type_is_left_alone(
    repository: Publisher, kind: int
) -> None:
    source = source_of(
        repository,
        dividing(
            helper.make_node("Identity", ["b"], ["c"]),
            helper.make_node("Div", ["a", "c"], ["y"]),
            kind=kind,
        ),
    )
    assert find_guards(source) == {}


def function(name: str, *nodes: NodeProto) -> FunctionProto:
    imports = [helper.make_opsetid("", 18)]
    return helper.make_function("mine", name, ["p", "q"], ["r"], nodes, imports)


def calls(*operators: str) -> list[NodeProto]:
    """Calls functions of integers, and then of floats."""
    nodes = [helper.make_node("Cast", [x], [f"{x}_float"], to=FLOAT) for x in ("a", "b")]
    of_floats = [f"{x}_float" for x in ("a", "b")]
    for index, operator in enumerate(operators):
        inputs = of_floats if index else ["a", "b"]
        nodes.append(helper.make_node(operator, inputs, [f"y{index}"], domain="mine"))
    return [*nodes, helper.make_node("Identity", ["y0"], ["y"])]


def divide(name: str) -> FunctionProto:
    return function(name, helper.make_node("Div", ["p", "q"], ["r"]))


def test_only_the_functions_of_integers_are_guarded(repository: Publisher) -> None:
    names = ("Integers", "F1", "F2", "F3")
    nodes = calls(*names)
    source = source_of(repository, dividing(*nodes, functions=tuple(map(divide, names))))
    guards = find_guards(source)
    assert guards == {0: INT64}
    assert run(source, guards, [SMALLEST, 7], [-1, 2]) == [SMALLEST, 3]


def test_a_function_of_integers_and_of_floats_is_refused_with_the_reason(
    repository: Publisher,
) -> None:
    nodes = calls("Any", "Any")
    source = source_of(repository, dividing(*nodes, functions=(divide("Any"),)))
    with pytest.raises(SourceError, match=r"the division that gives 'r'.* of several types"):
        find_guards(source)


def test_a_file_that_has_functions_of_our_name_does_not_take_their_place(
    repository: Publisher,
) -> None:
    own = divide("Divide7")
    own.domain = "forwardpass.division"
    node = helper.make_node("Div", ["a", "b"], ["y"])
    source = source_of(repository, dividing(node, functions=(own,)))
    # Its own, which nothing calls, is there beside.
    assert run(source, {0: INT64}, [SMALLEST], [-1]) == [SMALLEST]


def test_all_else_in_the_file_stays_as_it_is(repository: Publisher) -> None:
    """Also fields that we do not know, and numbers that are 0 in so many words."""
    tiny = model(
        [
            helper.make_node("Div", ["a", "b"], ["y"], name="divide", doc_string="a note"),
            helper.make_node("Flatten", ["a"], ["z"], axis=0),
            helper.make_node("Constant", [], ["zero"], value_int=0),
        ],
        [value("a", INT64), value("b", INT64)],
        [value("y", INT64), helper.make_tensor_value_info("z", INT64, ["k", "l"])],
        {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
    )
    tiny.graph.initializer[0].doc_string = ""
    tiny.graph.value_info.append(value("zero", INT64))
    tiny.metadata_props.add(key="author", value="")
    tiny.producer_name = "a test"
    data = guarded(tiny.SerializeToString(), {0: INT64})
    after = onnx.ModelProto.FromString(data)
    assert after.graph.node[0].op_type != "Div"
    after.graph.node[0].op_type = "Div"
    after.graph.node[0].domain = ""
    before = onnx.ModelProto.FromString(tiny.SerializeToString())
    before.graph.node[0].domain = ""
    del after.functions[:]
    after.opset_import.pop()
    assert after == before
