"""A run on the transport's own thread that takes far too long is ended, and made elsewhere."""

import threading
from typing import Any

import numpy as np
import pytest
from conftest import Running, StartServer
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, busy, echo

from forwardpass.server.errors import RunError
from forwardpass.server.loading import batch_curve
from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.inline_executor import InlineExecutor
from forwardpass.server.scheduling.watchdog import Watchdog
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ListModelsRequest, ModelReference
from forwardpass.wire import from_tensor, to_tensor

PATIENCE = 60
STEPS = 400


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a run takes on a machine that is busy, it counts as short enough."""
    monkeypatch.setattr(batch_curve, "_INLINE_SECONDS", PATIENCE)
    monkeypatch.setattr(batch_curve, "_INLINE_SECONDS_BESIDE_OTHERS", PATIENCE)


def stretchy() -> TinyModel:
    """Gives x back: float32 (n, 1). The larger the largest x, the longer it takes.

    No operator runs a graph within it, so nothing but the values tells.
    """
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "one_axis"], ["extent"]),
        helper.make_node("ConstantOfShape", ["extent"], ["step0"]),
        # None can be left out or taken together: each reads the one before it.
        *(helper.make_node("CumSum", [f"step{n}", "axis"], [f"step{n + 1}"]) for n in range(STEPS)),
        helper.make_node("ReduceSum", [f"step{STEPS}"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = [
        helper.make_tensor("one_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis", TensorProto.INT64, [], [0]),
    ]
    graph = helper.make_graph(
        nodes,
        "stretchy",
        [value("x", TensorProto.FLOAT, ["n", 1])],
        [value("y", TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    return TinyModel(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


def predict(running: Running, name: str, x: float) -> float:
    request = PredictRequest(
        model=ModelReference(name=name), inputs={"x": to_tensor(np.array([[x]], np.float32))}
    )
    answer = running.inference.Predict(request, timeout=PATIENCE)
    return float(from_tensor(answer.outputs["y"])[0, 0])


def executor_of(running: Running, name: str) -> Any:
    loaded = running.server._repository.find(ModelReference(name=name))
    loaded.leases.leave()
    return loaded.executor


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("transport", ["completion_queue"])
def test_t113_a_run_that_its_values_make_long_is_made_elsewhere_from_then_on(
    repository: Publisher,
    start_server: StartServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    repository("stretchy", stretchy())
    (repository.root / "stretchy" / "config.pbtxt").write_text("max_batch_size: 1")
    running = start_server()
    executor = executor_of(running, "stretchy")
    assert isinstance(executor, InlineExecutor)
    assert predict(running, "stretchy", 1) == 1
    assert executor.is_inline
    # Of whoever chooses by what runs where.
    told: list[bool] = []
    running.server._repository.on_change(lambda: told.append(executor.is_inline))
    # A hundred times what it may take there, and answered all the same.
    assert predict(running, "stretchy", 2_000_000) == 2_000_000
    assert not executor.is_inline
    assert told == [False]
    output = capfd.readouterr()
    assert "moved_off_the_transport" in output.out + output.err
    # The next one holds nobody up: others are answered while it runs.
    request = PredictRequest(
        model=ModelReference(name="stretchy"),
        inputs={"x": to_tensor(np.array([[2_000_000]], np.float32))},
    )
    future: Any = running.inference.Predict.future(request, timeout=PATIENCE)
    assert running.models.ListModels(ListModelsRequest(), timeout=PATIENCE).models
    assert not future.done()
    assert from_tensor(future.result().outputs["y"])[0, 0] == 2_000_000


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("transport", ["completion_queue"])
def test_t113_a_graph_with_a_loop_never_runs_on_the_transport_s_thread(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("loop", busy())
    repository("plain", echo(TensorProto.FLOAT, ["n", 1]))
    (repository.root / "plain" / "config.pbtxt").write_text("max_batch_size: 1")
    running = start_server()
    assert not isinstance(executor_of(running, "loop"), InlineExecutor)
    assert isinstance(executor_of(running, "plain"), InlineExecutor)


def test_a_run_on_the_transports_thread_ends_where_it_is_stopped_and_no_other_run_does() -> None:
    session = Session(stretchy().graph.SerializeToString(), {}, threads=1)
    inputs = {"x": np.ones((1, 1), np.float32)}
    assert session.run_inline(["y"], inputs)[0].tolist() == [[1]]
    session.stop_inline()
    # Stopped before it began, it ends before its first operator.
    with pytest.raises(RunError, match="terminate"):
        session.run_inline(["y"], inputs)
    assert session.run(["y"], inputs)[0].tolist() == [[1]]


def test_a_run_is_stopped_once_it_has_taken_its_time_and_the_next_is_not() -> None:
    watchdog, stopped = Watchdog(), threading.Event()
    for _ in range(2):
        watchdog.begin(stopped.set, 0.0)
        assert stopped.wait(PATIENCE)
        assert watchdog.end()
        stopped.clear()
    for _ in range(1000):
        watchdog.begin(stopped.set, PATIENCE)
        assert not watchdog.end()
    assert not stopped.is_set()
    watchdog.close()


def test_a_watchdog_that_sleeps_is_woken_up_by_the_next_run() -> None:
    watchdog, stopped = Watchdog(), threading.Event()
    watchdog.begin(stopped.set, PATIENCE)
    watchdog.end()
    # It falls asleep once no run has been made between two looks.
    while not watchdog._is_asleep:
        threading.Event().wait(0.01)
    watchdog.begin(stopped.set, 0.0)
    assert stopped.wait(PATIENCE)
    assert watchdog.end()
    watchdog.close()
