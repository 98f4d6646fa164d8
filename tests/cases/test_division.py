"""T117: divisions of integers, one of which ends the process where nothing guards it.

The server is a process of its own in every case, so that a test that fails ends no other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from failures import failure_of
from onnx import FunctionProto, NodeProto, TensorProto, ValueInfoProto, helper
from server.test_process import serving
from tiny_models import Publisher, TinyModel, divider, model

from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.wire import Array, Reason, from_tensor

from .harness import PATIENCE, predict

KINDS = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}
SMALLEST = {name: np.iinfo(name).min for name in KINDS}
# ONNX Runtime divides int32 four at a time, which ends nothing, and those that remain one by one.
LENGTHS = (1, 4, 101)


@contextmanager
def stub(repository: Publisher, transport: str, *flags: str) -> Iterator[Any]:
    """Serves a repository from a process, and gives what calls it."""
    with serving(repository.root, "--transport", transport, "--threads", "1", *flags) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(server.address) as channel:
            yield InferenceServiceStub(channel)
        assert server.process.poll() is None


def quotient(inference: Any, name: str, a: Array, b: Array, **more: Array) -> Array:
    response = inference.Predict(predict(name, {"a": a, "b": b, **more}), timeout=PATIENCE)
    found: Array = from_tensor(response.outputs["y"])
    return found


def assert_divides(inference: Any, name: str, dtype: str, **more: Array) -> None:
    """Asks for the division that ends a process, and for all sorts of others."""
    smallest = SMALLEST[dtype]
    for length in LENGTHS:
        a, b = np.full(length, smallest, dtype), np.full(length, -1, dtype)
        assert quotient(inference, name, a, b, **more).tolist() == [smallest] * length
        assert quotient(inference, name, a, b[:1], **more).tolist() == [smallest] * length
    random = np.random.default_rng(0)
    a = random.integers(smallest, -(smallest + 1), 1000, dtype, endpoint=True)
    b = random.choice(np.array([-3, -2, -1, 1, 2, 7, smallest, -(smallest + 1)], dtype), 1000)
    expected = [
        abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    found = quotient(inference, name, a, b, **more)
    assert found.dtype == a.dtype
    assert found.tolist() == expected


@pytest.mark.parametrize("flags", [[], ["--no-sandbox"]], ids=["sandbox", "no-sandbox"])
def test_t117_the_smallest_integer_by_minus_one_does_not_end_the_server(
    repository: Publisher, transport: str, flags: list[str]
) -> None:
    for name, kind in KINDS.items():
        repository(name, divider(kind))
    with stub(repository, transport, *flags) as inference:
        for name in KINDS:
            assert_divides(inference, name, name)


def test_t117_a_division_by_zero_is_told_to_its_caller(
    repository: Publisher, transport: str
) -> None:
    for name, kind in KINDS.items():
        repository(name, divider(kind))
    with stub(repository, transport) as inference:
        for name in KINDS:
            for length in LENGTHS:
                values = {"a": np.ones(length, name), "b": np.zeros(length, name)}
                failure = failure_of(inference.Predict, predict(name, values))
                assert failure.reason is Reason.INVALID_INPUT
                assert "division by zero" in failure.message
            assert quotient(inference, name, np.array([7], name), np.array([2], name)) == [3]


def value(name: str, kind: int, shape: list[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def around(kind: int, nodes: list[NodeProto], *functions: FunctionProto) -> TinyModel:
    """A graph that divides `a` by `b` within one of its nodes, and is told how often."""
    made = model(
        [helper.make_node("Identity", ["a"], ["y"])],
        [value("a", kind, ["n"]), value("b", kind, ["m"]), value("times", TensorProto.INT64, [])],
        [value("y", kind, ["k"])],
    )
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    for function in functions:
        made.functions.append(function)
        made.opset_import.add(domain=function.domain, version=1)
    return TinyModel(made)


def in_a_branch(kind: int) -> TinyModel:
    divide = helper.make_node("Div", ["a", "b"], ["quotient"])
    keep = helper.make_node("Identity", ["a"], ["dividend"])
    return around(
        kind,
        [
            helper.make_node("Cast", ["times"], ["divides"], to=TensorProto.BOOL),
            helper.make_node(
                "If",
                ["divides"],
                ["y"],
                then_branch=helper.make_graph(
                    [divide], "then", [], [value("quotient", kind, ["k"])]
                ),
                else_branch=helper.make_graph([keep], "else", [], [value("dividend", kind, ["k"])]),
            ),
        ],
    )


def in_a_loop(kind: int) -> TinyModel:
    body = helper.make_graph(
        [
            helper.make_node("Expand", ["b", "extents"], ["divisor"]),
            helper.make_node("Div", ["before", "divisor"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["going_on"]),
        ],
        "step",
        [
            value("step", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("before", kind, ["k"]),
        ],
        [value("going_on", TensorProto.BOOL, []), value("after", kind, ["k"])],
    )
    return around(
        kind,
        [
            helper.make_node("Shape", ["a"], ["extents"]),
            helper.make_node("Loop", ["times", "", "a"], ["y"], body=body),
        ],
    )


def in_a_function(kind: int) -> TinyModel:
    """In one function of another; the floats that it also divides are no concern of ours."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    inner = helper.make_function(
        "mine", "Inner", ["p", "q"], ["r"], [helper.make_node("Div", ["p", "q"], ["r"])], imports
    )
    outer = helper.make_function(
        "mine",
        "Outer",
        ["p", "q"],
        ["r"],
        [
            helper.make_node("Cast", ["p"], ["half"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["half", "half"], ["unused"]),
            helper.make_node("Inner", ["p", "q"], ["r"], domain="mine"),
        ],
        imports,
    )
    made = around(kind, [helper.make_node("Outer", ["a", "b"], ["y"], domain="mine")], outer)
    made.graph.functions.append(inner)
    return made


def in_the_middle(kind: int) -> TinyModel:
    """Behind operators whose types nobody has written down."""
    return around(
        kind,
        [
            helper.make_node("Neg", ["b"], ["opposite"]),
            helper.make_node("Neg", ["opposite"], ["divisor"]),
            helper.make_node("Div", ["a", "divisor"], ["quotient"]),
            helper.make_node("Identity", ["quotient"], ["y"]),
        ],
    )


@pytest.mark.parametrize("make", [in_a_branch, in_a_loop, in_a_function, in_the_middle])
def test_t117_wherever_it_stands(
    repository: Publisher, transport: str, make: Callable[[int], TinyModel]
) -> None:
    for name, kind in KINDS.items():
        repository(name, make(kind))
    with stub(repository, transport) as inference:
        for name in KINDS:
            assert_divides(inference, name, name, times=np.array(1))


def test_t117_a_constant_minus_one_is_guarded_too(repository: Publisher, transport: str) -> None:
    for name, kind in KINDS.items():
        repository(name, divider(kind, np.array([2, -1], name)))
    with stub(repository, transport) as inference:
        for name in KINDS:
            a = np.full(2, SMALLEST[name], name)
            response = inference.Predict(predict(name, {"a": a}))
            found = from_tensor(response.outputs["y"]).tolist()
            assert found == [SMALLEST[name] // 2, SMALLEST[name]]


def test_t117_a_start_that_needs_no_sandbox_remembers_what_to_guard(
    repository: Publisher, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORWARDPASS_CACHE_DIR")
    for name, kind in KINDS.items():
        repository(name, divider(kind))
        repository(f"{name}-branch", in_a_branch(kind))
    kept = ("--cache-dir", str(tmp_path / "kept"))
    for cached in (False, True):
        with serving(repository.root, "--transport", transport, *kept) as server:
            server.wait_for("ready")
            ready = [line for line in server.lines if line["event"] == "model_ready"]
            assert [line["cached"] for line in ready] == [cached] * 4
            with grpc.insecure_channel(server.address) as channel:
                for name in KINDS:
                    inference = InferenceServiceStub(channel)
                    assert_divides(inference, name, name)
                    assert_divides(inference, f"{name}-branch", name, times=np.array(1))
