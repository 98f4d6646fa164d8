"""T91 to T95: what a signal does to a server, in each state that it may be in."""

import signal
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
    repository: Publisher, number: signal.Signals
) -> None:
    repository("pick", picker())
    with serving(repository.root) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = InferenceServiceStub(channel)
            assert picked(stub.Predict(pick(1), timeout=PATIENCE)) == [1]
            server.process.send_signal(number)
            assert server.finish() == 0
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(pick(1), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.lines[-1]["unfinished"] == 0
    assert_clean(server)


@pytest.mark.parametrize("number", SIGNALS)
def test_t92_t93_forty_accepted_calls_are_answered_after_a_signal(
    repository: Publisher, number: signal.Signals
) -> None:
    repository("busy", busy())
    with (
        serving(repository.root) as server,
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
        server.process.send_signal(number)
        server.wait_for("draining")
        first.cancel()
        for call in calls:
            assert from_tensor(call.result().outputs["size"]).tolist() == [64, 64]
        assert server.finish() == 0
    assert_clean(server)


@pytest.mark.parametrize("number", SIGNALS)
def test_t93_a_second_signal_ends_it_at_once(repository: Publisher, number: signal.Signals) -> None:
    """Ruled: the second signal forces, not the third."""
    repository("busy", busy())
    with (
        serving(repository.root) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        stub: Any = InferenceServiceStub(channel)
        call = stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE) == 128 + number
        assert call.exception() is not None


def test_t94_watches_end_and_an_endless_call_is_cut_off(repository: Publisher) -> None:
    repository("busy", busy())
    with (
        serving(repository.root, "--drain-seconds", "1") as server,
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
        server.process.send_signal(signal.SIGTERM)
        for watch in watches:
            assert [one.status for one in watch] == [NOT_SERVING]
        assert list(unknown) == []
        # The call is under way all the same, until its time is over.
        assert call.exception() is not None
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert server.finish() == 0
    assert server.lines[-1]["unfinished"] == 1
    assert_clean(server)


def test_t95_a_signal_while_models_load_ends_the_server(repository: Publisher) -> None:
    """Also while a graph is tried that never ends."""
    repository("endless", endless())
    with serving(repository.root) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = predict("endless", {"x": np.ones(1, np.float32)})
            with pytest.raises(grpc.RpcError) as caught:
                InferenceServiceStub(channel).Predict(request, timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.finish() == 0
    assert_clean(server)


def test_t95_a_signal_while_a_watched_version_is_tried_ends_the_server(
    repository: Publisher,
) -> None:
    repository("pick", picker())
    with serving(repository.root, "--watch") as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="endless"))
            assert next(watch).status == SERVICE_UNKNOWN
            repository("endless", endless())
            assert next(watch).status == NOT_SERVING
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.finish() == 0
    assert_clean(server)
