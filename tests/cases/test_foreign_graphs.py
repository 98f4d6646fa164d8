"""T82, T90: graphs that would kill the server, and graphs that would run somebody's code in it."""

import sys
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, busy, model, picker

from forwardpass.server.loading import load as loading
from forwardpass.server.loading import sandbox
from forwardpass.server.onnx.session import Session
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
    LoadModelRequest,
    ModelReference,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason

from .harness import PATIENCE, assert_idle, pick, picked, predict, summaries

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
# The sandbox itself, but that a run ends it as a fault in native code would.
CRASH = (
    "import os, signal\n"
    "from forwardpass.server.loading import trial\n"
    "from forwardpass.server.onnx import session\n"
    "session.Session.run = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)\n"
    "trial.answer_questions()"
)


def crashing() -> TinyModel:
    """Nothing is the matter with it; its sandbox is made to crash."""
    return picker()


def wide() -> TinyModel:
    """Makes an array of 12 GiB when it runs."""
    fill = helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
    return TinyModel(
        model(
            [
                helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=fill),
                helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
                helper.make_node("Add", ["x", "sum"], ["y"]),
            ],
            [X],
            [Y],
            {"shape": np.array([3 << 30], np.int64)},
        )
    )


def endless() -> TinyModel:
    """Never comes to the end of a run."""
    made = busy()
    graph = made.graph.graph
    del graph.input[:]
    graph.input.append(X)
    graph.initializer.append(helper.make_tensor("steps", TensorProto.INT64, [], [2**60]))
    return made


def load(running: Running, version: int) -> None:
    """Has the server load a version of the picker."""
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        reference = ModelReference(name="pick", version=version)
        request = LoadModelRequest(model=reference)
        ModelServiceStub(channel).LoadModel(request, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (crashing, "loading it or running it once crashed with SIGSEGV"),
        (wide, "took more than 64 MiB"),
        (endless, "took more than 10 s"),
    ],
    ids=["crash", "memory", "hang"],
)
def test_t82_a_graph_that_would_kill_the_server_kills_its_sandbox(
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    bad: Callable[[], TinyModel],
    reason: str,
) -> None:
    repository("pick", picker(), 1)
    running = start_server(sandbox=True, sandbox_bytes=0, sandbox_seconds=10, management_port=0)
    assert picked(running.inference.Predict(pick(1))) == [1]
    repository("pick", bad(), 2)
    with monkeypatch.context() as while_it_is_tried:
        if bad is crashing:
            while_it_is_tried.setattr(sandbox, "_COMMAND", [sys.executable, "-c", CRASH])
        failure = failure_of(load, running, 2)
    assert failure.reason is Reason.MODEL_FAILED
    assert reason in failure.message
    seen = summaries(running)
    assert seen["pick", 2].state == MODEL_STATE_FAILED
    assert reason in seen["pick", 2].state_reason
    assert seen["pick", 1].state == MODEL_STATE_READY
    assert picked(running.inference.Predict(pick(2))) == [2]
    # The next graph has a sandbox of its own.
    repository("pick", picker(), 3)
    load(running, 3)
    assert running.inference.Predict(pick(3)).model.version == 3
    assert_idle(running)


def of_domain(domain: str, operator: str) -> TinyModel:
    """A graph of one node, of an operator that the ONNX package does not know."""
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph([node], "tiny", [X], [Y])
    return TinyModel(helper.make_model(graph, opset_imports=imports, ir_version=10))


def in_a_branch() -> TinyModel:
    """The operator stands two graphs deep, and is not run at that."""
    made = of_domain("evil.ops", "Steal")
    for _ in range(2):
        body = helper.make_graph(made.graph.graph.node, "inner", [], [Y])
        other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [], [Y])
        node = helper.make_node("If", ["never"], ["y"], then_branch=body, else_branch=other)
        del made.graph.graph.node[:]
        made.graph.graph.node.append(node)
    made.graph.graph.initializer.append(helper.make_tensor("never", TensorProto.BOOL, [], [False]))
    return made


def in_a_function() -> TinyModel:
    """The domain of a function that the file defines is its own affair; what is in it is not."""
    made = of_domain("mine", "Function")
    node = helper.make_node("PyOp", ["x"], ["y"], domain="com.microsoft")
    imports = [helper.make_opsetid("com.microsoft", 1)]
    made.graph.functions.append(
        helper.make_function("mine", "Function", ["x"], ["y"], [node], imports)
    )
    return made


FOREIGN: dict[str, tuple[Callable[[], TinyModel], str]] = {
    "domain": (lambda: of_domain("evil.ops", "Steal"), "of the unknown domain 'evil.ops'"),
    "like-a-known-one": (
        lambda: of_domain("com.microsoft.evil", "Gelu"),
        "of the unknown domain 'com.microsoft.evil'",
    ),
    "python": (
        lambda: of_domain("com.microsoft", "PyOp"),
        "operator 'PyOp' runs foreign code and is never loaded",
    ),
    "compiled": (
        lambda: of_domain("com.microsoft", "EPContext"),
        "operator 'EPContext' runs foreign code and is never loaded",
    ),
    "branch": (in_a_branch, "operator 'Steal' is of the unknown domain 'evil.ops'"),
    "function": (in_a_function, "operator 'PyOp' runs foreign code and is never loaded"),
}


def test_t90_operators_that_are_not_onnx_runtime_s_own_are_refused_before_it_sees_them(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[bytes] = []

    def session(graph: bytes, *arguments: object) -> Session:
        sessions.append(graph)
        return Session(graph, *arguments)  # type: ignore[arg-type]  # handed on as they come

    monkeypatch.setattr(loading, "Session", session)
    for name, (made, _) in FOREIGN.items():
        repository(name, made())
    good = repository("pick", picker())
    running = start_server()
    seen = summaries(running)
    for name, (_, reason) in FOREIGN.items():
        assert seen[name, 1].state == MODEL_STATE_FAILED
        assert reason in seen[name, 1].state_reason
        failure = failure_of(running.inference.Predict, predict(name, {}))
        assert failure.reason is Reason.MODEL_FAILED
        assert reason in failure.message
    assert picked(running.inference.Predict(pick(2))) == [2]
    assert sessions == [(good / "model.onnx").read_bytes()]
