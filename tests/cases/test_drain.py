"""T91 to T95: what a signal does to a server, in each state that it may be in, also as PID 1.

The kernel gives the first process of a namespace no default action for a signal: what the server
does not handle would not end it.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from server.test_process import ServerProcess, serving, wait_until_in_flight
from tiny_models import Publisher, TinyModel, busy, picker

from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.wire import from_tensor

from .harness import (
    NOT_SERVING,
    PATIENCE,
    SERVICE_UNKNOWN,
    SERVING,
    pick,
    picked,
    predict,
    steps,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Serve = Callable[..., AbstractContextManager[ServerProcess]]
# Begins a namespace of processes, whose first is the server, as in a container.
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module")
def as_pid_1() -> list[str]:
    """The command that makes what it starts PID 1; skips where that is not permitted."""
    rights = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = [*UNSHARE, *rights]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no server can be PID 1 here: there is no unshare")
    if tried.returncode:
        pytest.skip(f"no server can be PID 1 here: {tried.stderr.strip()}")
    return command


@pytest.fixture(params=["child", "pid-1"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a server: one process among others, or the first of its own namespace."""
    if request.param == "child":
        return serving
    wrapper = request.getfixturevalue("as_pid_1")

    @contextmanager
    def serve_first(repository: Path, *flags: str) -> Iterator[ServerProcess]:
        with serving(repository, *flags, wrapper=wrapper) as server:
            status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
            assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE)
            yield server

    return serve_first


def endless() -> TinyModel:
    """Outlasts any patience, also when it is tried at load."""
    made = busy()
    graph = made.graph.graph
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]))
    graph.initializer.append(helper.make_tensor("steps", TensorProto.INT64, [], [2**60]))
    return made


def assert_clean(server: ServerProcess) -> None:
    """The log of a server that ended well: its last word, and nothing that went wrong."""
    assert server.lines[-1]["event"] == "stopped"
    for line in server.lines:
        assert "exception" not in line, line


@pytest.mark.parametrize("number", SIGNALS)
def test_t91_a_signal_when_idle_ends_the_server_with_0(
    repository: Publisher, serve: Serve, number: signal.Signals
) -> None:
    repository("pick", picker())
    with serve(repository.root) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = InferenceServiceStub(channel)
            assert picked(stub.Predict(pick(1), timeout=PATIENCE)) == [1]
            server.signal(number)
            assert server.finish() == 0
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(pick(1), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.lines[-1]["unfinished"] == 0
    assert_clean(server)


@pytest.mark.parametrize("number", SIGNALS)
def test_t92_t93_forty_accepted_calls_are_answered_after_a_signal(
    repository: Publisher, serve: Serve, number: signal.Signals
) -> None:
    repository("busy", busy())
    with (
        serve(repository.root) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        stub: Any = InferenceServiceStub(channel)
        # One runs for as long as its caller stays, forty wait for it.
        first = stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        calls = []
        for number_sent in range(2, 42):
            calls.append(stub.Predict.future(steps(10), timeout=PATIENCE))
            wait_until_in_flight(server.lines[0]["metrics"], number_sent)
        server.signal(number)
        server.wait_for("draining")
        first.cancel()
        for call in calls:
            assert from_tensor(call.result().outputs["size"]).tolist() == [64, 64]
        assert server.finish() == 0
    assert_clean(server)


@pytest.mark.parametrize("number", SIGNALS)
def test_t93_a_second_signal_ends_it_at_once(
    repository: Publisher, serve: Serve, number: signal.Signals
) -> None:
    """Ruled: the second signal forces, not the third."""
    repository("busy", busy())
    with (
        serve(repository.root) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        stub: Any = InferenceServiceStub(channel)
        call = stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        server.signal(number)
        assert server.process.wait(PATIENCE) == 128 + number
        assert call.exception() is not None


def test_t94_watches_end_and_an_endless_call_is_cut_off(
    repository: Publisher, serve: Serve
) -> None:
    repository("busy", busy())
    with (
        serve(repository.root, "--drain-seconds", "1") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        health: Any = health_pb2_grpc.HealthStub(channel)
        names = ("", "busy", "forwardpass.v1.InferenceService", "inference.GRPCInferenceService")
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in names]
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="nope"))
        for watch in watches:
            assert next(watch).status == SERVING
        assert next(unknown).status == SERVICE_UNKNOWN
        stub: Any = InferenceServiceStub(channel)
        call = stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        server.signal(signal.SIGTERM)
        for watch in watches:
            assert [one.status for one in watch] == [NOT_SERVING]
        assert list(unknown) == []
        # The call is under way all the same, until its time is over.
        assert call.exception() is not None
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert server.finish() == 0
    assert server.lines[-1]["unfinished"] == 1
    assert_clean(server)


def test_t95_a_signal_while_models_load_ends_the_server(
    repository: Publisher, serve: Serve
) -> None:
    """Also while a graph is tried that never ends."""
    repository("endless", endless())
    with serve(repository.root) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = predict("endless", {"x": np.ones(1, np.float32)})
            with pytest.raises(grpc.RpcError) as caught:
                InferenceServiceStub(channel).Predict(request, timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.finish() == 0
    assert_clean(server)


def test_t95_a_signal_while_a_watched_version_is_tried_ends_the_server(
    repository: Publisher, serve: Serve
) -> None:
    repository("pick", picker())
    with serve(repository.root, "--watch") as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="endless"))
            assert next(watch).status == SERVICE_UNKNOWN
            repository("endless", endless())
            assert next(watch).status == NOT_SERVING
            server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.finish() == 0
    assert_clean(server)
