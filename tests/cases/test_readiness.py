"""T01 to T04: who is told what while models load, and when one of them fails.

By default one model that does not answer at the start makes the server not ready, as T02 has it,
and so T03, the lenient form, holds for each model by its own name; tests/server/repository has the
rest.
"""

import threading
from typing import Any

import grpc
import pytest
from conftest import Running, StartServer
from failures import failure_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_models import Publisher, classifier, picker

from forwardpass.server.repository.version import Version
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
    LoadModelRequest,
    ModelReference,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason
from forwardpass.wire.open_inference import SERVICE, message_class

from .harness import (
    NOT_SERVING,
    PATIENCE,
    SERVICE_UNKNOWN,
    SERVING,
    assert_idle,
    check_health,
    connect,
    get,
    pick,
    picked,
    predict,
    summaries,
)


def ask(running: Running, method: str, **fields: str) -> Any:
    """Asks the Open Inference Protocol."""
    call: Any = running.channel.unary_unary(
        f"/{SERVICE}/{method}",
        response_deserializer=message_class(f"{method}Response").FromString,
    )
    request: Any = message_class(f"{method}Request")(**fields)
    return call(request.SerializeToString(), timeout=PATIENCE)


def watch(running: Running, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


def test_t01_a_server_that_loads_is_live_and_not_ready(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, may_load = threading.Event(), threading.Event()
    load = Version.load

    def held(version: Version, *arguments: Any) -> None:
        entered.set()
        assert may_load.wait(PATIENCE)
        load(version, *arguments)

    monkeypatch.setattr(Version, "load", held)
    repository("pick", picker())
    running = start_server(wait=False)
    assert entered.wait(PATIENCE)
    try:
        assert ask(running, "ServerLive").live
        assert not ask(running, "ServerReady").ready
        assert not ask(running, "ModelReady", name="pick").ready
        assert check_health(running) == check_health(running, "pick") == NOT_SERVING
        assert (get(running, "/livez")[0], get(running, "/readyz")[0]) == (200, 503)
        failure = failure_of(running.inference.Predict, pick(1))
        assert failure.reason is Reason.MODEL_LOADING
        assert failure.retry_after is not None
    finally:
        may_load.set()
    running.server.wait_loaded()
    assert ask(running, "ServerReady").ready
    assert ask(running, "ModelReady", name="pick").ready
    assert check_health(running) == check_health(running, "pick") == SERVING
    assert get(running, "/readyz")[0] == 200
    assert picked(running.inference.Predict(pick(1))) == [1]


def test_t02_one_model_that_fails_makes_the_server_not_ready(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    (repository("bad", classifier()) / "model.onnx").write_bytes(b"")
    running = start_server()
    assert ask(running, "ServerLive").live
    assert not ask(running, "ServerReady").ready
    assert check_health(running) == NOT_SERVING
    assert (get(running, "/livez")[0], get(running, "/readyz")[0]) == (200, 503)
    failure = failure_of(running.inference.Predict, predict("bad", {}))
    assert failure.reason is Reason.MODEL_FAILED
    bad = summaries(running)["bad", 1]
    assert bad.state == MODEL_STATE_FAILED
    assert bad.state_reason
    assert bad.state_reason in failure.message


def test_t03_the_other_models_are_ready_and_answer(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    (repository("bad", classifier()) / "model.onnx").write_bytes(b"")
    running = start_server()
    assert check_health(running, "pick") == SERVING
    assert ask(running, "ModelReady", name="pick").ready
    assert check_health(running, "bad") == NOT_SERVING
    assert not ask(running, "ModelReady", name="bad").ready
    assert summaries(running)["pick", 1].state == MODEL_STATE_READY
    assert picked(running.inference.Predict(pick(3))) == [3]
    assert_idle(running)


def test_t04_an_unknown_service_is_told_from_one_that_is_not_ready(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(management_port=0)
    request = health_pb2.HealthCheckRequest(service="pick")
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    assert failure_of(stub.Check, request).reason is Reason.MODEL_NOT_FOUND
    statuses = watch(running, "pick")
    assert next(statuses).status == SERVICE_UNKNOWN
    repository("pick", picker())
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        reference = ModelReference(name="pick")
        ModelServiceStub(channel).LoadModel(LoadModelRequest(model=reference))
    # It may be seen before it is ready.
    assert next(one for one in statuses if one.status != NOT_SERVING).status == SERVING
    statuses.cancel()


def test_t04_watches_that_end_leave_no_watchers(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server()
    readiness = running.server.readiness
    forgotten = threading.Semaphore(0)
    forget = readiness._forget

    def forget_and_tell(watcher: Any) -> None:
        forget(watcher)
        forgotten.release()

    readiness._forget = forget_and_tell  # type: ignore[method-assign]  # to learn of the end
    stays = watch(running, "stays")
    assert next(stays).status == SERVICE_UNKNOWN
    with connect(running) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for index in range(60):
            statuses = stub.Watch(health_pb2.HealthCheckRequest(service=f"nope{index}"))
            assert next(statuses).status == SERVICE_UNKNOWN
            if index % 2:
                statuses.cancel()
        # The others end with their connection.
    for _ in range(60):
        assert forgotten.acquire(timeout=PATIENCE)
    assert len(readiness._watchers) == 1
    stays.cancel()
