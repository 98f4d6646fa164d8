"""Calls that the stock transport has no thread for: turned away at once, and others go on."""

from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import PATIENCE, assert_idle, connect, metric, pick, picked, stub_of
from conftest import Running, StartServer
from failures import failure_of
from faults.wire import Hostile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_inference.calls import Calls, emb
from tiny_models import Publisher, embedder, picker

from forwardpass.server.transport import listener, stock
from forwardpass.v1.inference_service_pb2 import EmbedRequest, EmbedStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason, to_tensor

PREDICT = "/forwardpass.v1.InferenceService/Predict"
REQUEST = health_pb2.HealthCheckRequest()
VECTOR = EmbedStreamRequest(
    request=EmbedRequest(
        model=ModelReference(name="emb"),
        inputs={"features": to_tensor(np.ones((1, 4), np.float32))},
    )
)


@pytest.fixture
def transport() -> str:
    """On the other one a call has no thread."""
    return "stock"


def watch(channel: grpc.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(REQUEST, timeout=PATIENCE)


def turned_away(running: Running, method: str) -> float:
    return metric(
        running,
        "grpc_server_handled_total",
        grpc_method=method,
        grpc_code="RESOURCE_EXHAUSTED",
    )


def test_streams_that_would_wait_for_a_thread_are_turned_away_and_other_calls_are_not(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "_BEGINNING", 0)
    repository("pick", picker())
    repository("emb", embedder())
    running = start_server()
    stub, calls = stub_of(running.channel), Calls(running.channel)
    streams = {
        "Watch": lambda: next(watch(running.channel)),
        "EmbedStream": lambda: next(stub.EmbedStream(iter([VECTOR]), timeout=PATIENCE)),
        "ModelStreamInfer": lambda: next(
            calls.stream([emb().SerializeToString()], timeout=PATIENCE)
        ),
    }
    for name, stream in streams.items():
        failure = failure_of(stream)
        assert failure.reason is Reason.QUEUE_FULL
        assert failure.retry_after == 0.1
        assert turned_away(running, name) == 1
        assert picked(stub.Predict(pick(2), timeout=PATIENCE)) == [2]
    assert_idle(running)


def test_a_stream_whose_thread_runs_makes_room_for_the_next(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "_BEGINNING", 1)
    repository("pick", picker())
    running = start_server()
    watches = []
    for _ in range(8):
        watches.append(watch(running.channel))
        assert next(watches[-1]).status == health_pb2.HealthCheckResponse.SERVING
    for one in watches:
        one.cancel()
    assert next(watch(running.channel)).status == health_pb2.HealthCheckResponse.SERVING


def test_calls_that_hold_every_thread_are_no_reason_to_wait_for_one(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CALLS_OF_CONNECTION", 4)
    monkeypatch.setattr(stock, "_SPARE_THREADS", 0)
    repository("pick", picker())
    running = start_server(max_in_flight=1, max_streams=1, max_watches=1)
    with connect(running) as channel:
        stub = stub_of(channel)

        def answered() -> bool:
            call = stub.Predict.future(pick(3), timeout=PATIENCE)
            if call.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert picked(call.result()) == [3]
                return True
            return False

        # More than there are threads, one after another.
        assert all(answered() for _ in range(9))
        with ExitStack() as stack:
            while answered():
                # Its message never comes.
                stack.enter_context(Hostile(running.address)).call(PREDICT)
            failure = failure_of(stub.Predict, pick(3), timeout=PATIENCE)
            assert failure.reason is Reason.QUEUE_FULL
            assert failure.retry_after == 0.1
            assert turned_away(running, "Predict") >= 2
        # Those who held them have gone.
        while not answered():
            pass
    assert_idle(running)
