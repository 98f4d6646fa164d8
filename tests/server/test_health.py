import base64
import urllib.error
import urllib.request
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client.parser import text_string_to_metric_families
from tiny_models import EMBEDDER_WEIGHTS, Publisher, classifier, embedder

from forwardpass.pixels import encode_png
from forwardpass.server.repository.version import Version
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health(running: Running) -> Any:
    return health_pb2_grpc.HealthStub(running.channel)


def check(running: Running, service: str = "") -> int:
    response = health(running).Check(health_pb2.HealthCheckRequest(service=service))
    status: int = response.status
    return status


def get(running: Running, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(running.metrics_url + path, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_ready_server_says_so_everywhere(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server()
    for service in ("", "clf", "forwardpass.v1.InferenceService", "forwardpass.v1.ModelService"):
        assert check(running, service) == SERVING
    assert get(running, "/readyz") == (200, "ready\n")
    assert get(running, "/livez") == (200, "alive\n")
    assert get(running, "/nope")[0] == 404
    request = health_pb2.HealthCheckRequest(service="nope")
    assert failure_of(health(running).Check, request).reason is Reason.MODEL_NOT_FOUND


def test_one_failed_model_makes_the_server_not_ready_and_the_others_answer(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    (repository("bad", classifier()) / "model.onnx").write_bytes(b"")
    running = start_server()
    assert check(running) == NOT_SERVING
    assert check(running, "bad") == NOT_SERVING
    assert check(running, "clf") == SERVING
    assert get(running, "/readyz") == (503, "not ready\n")
    assert get(running, "/livez")[0] == 200


def test_a_server_without_models_is_not_ready(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server()
    assert check(running) == NOT_SERVING
    assert get(running, "/readyz")[0] == 503
    assert get(running, "/livez")[0] == 200


def test_while_loading_the_server_is_alive_and_not_ready(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    entered, may_load = threading.Event(), threading.Event()
    load = Version.load

    def held(self: Version, *arguments: Any) -> None:
        entered.set()
        may_load.wait()
        load(self, *arguments)

    monkeypatch.setattr(Version, "load", held)
    repository("clf", classifier())
    running = start_server(wait=False)
    assert entered.wait(60)
    try:
        assert check(running) == NOT_SERVING
        assert get(running, "/livez")[0] == 200
        assert get(running, "/readyz")[0] == 503
        request = PredictRequest(model=ModelReference(name="clf"))
        failure = failure_of(running.inference.Predict, request)
        assert failure.reason is Reason.MODEL_LOADING
        assert failure.retry_after is not None
        statuses = health(running).Watch(health_pb2.HealthCheckRequest(service="clf"))
        assert next(statuses).status == NOT_SERVING
    finally:
        may_load.set()
    assert next(statuses).status == SERVING


def test_watches_end_when_the_server_drains(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server()
    watches = [
        health(running).Watch(health_pb2.HealthCheckRequest(service=service))
        for service in ("", "clf", "nope")
    ]
    assert [next(watch).status for watch in watches] == [SERVING, SERVING, SERVICE_UNKNOWN]
    running.server.stop()
    assert [one.status for one in watches[0]] == [NOT_SERVING]
    assert [one.status for one in watches[1]] == [NOT_SERVING]
    assert [one.status for one in watches[2]] == []


def test_a_cancelled_watch_leaves_nothing_behind(
    repository: Publisher, start_server: StartServer
) -> None:
    import threading

    running = start_server()
    readiness = running.server.readiness
    forgotten = threading.Semaphore(0)
    watch = readiness.watch

    def watch_and_tell(watcher: Any) -> Any:
        forget = watch(watcher)

        def forget_and_tell() -> None:
            forget()
            forgotten.release()

        return forget_and_tell

    readiness.watch = watch_and_tell  # type: ignore[method-assign]  # to learn of the end
    for _ in range(20):
        statuses = health(running).Watch(health_pb2.HealthCheckRequest(service="nope"))
        assert next(statuses).status == SERVICE_UNKNOWN
        statuses.cancel()
    for _ in range(20):
        assert forgotten.acquire(timeout=60)
    assert not readiness._watchers


def test_reflection_tells_what_is_served_when_asked_to(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(reflection=True)
    database = ProtoReflectionDescriptorDatabase(running.channel)
    services = set(database.get_services())
    assert services == {
        "forwardpass.v1.InferenceService",
        "forwardpass.v1.ModelService",
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
    }
    for service in services:
        file = database.FindFileContainingSymbol(service)
        assert any(f"{file.package}.{one.name}" == service for one in file.service)
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("no.such.Service")


def test_reflection_is_all_that_a_caller_needs(
    repository: Publisher, start_server: StartServer
) -> None:
    """As grpcurl does: messages from the server's own descriptors, filled from JSON."""
    repository("emb", embedder())
    running = start_server(reflection=True)
    # protobuf's stubs do not know that a pool may ask a database.
    pool: Any = DescriptorPool(ProtoReflectionDescriptorDatabase(running.channel))

    def call(service: str, name: str, fields: dict[str, Any]) -> Any:
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.ParseDict(fields, GetMessageClass(method.input_type)())
        send: Any = running.channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return json_format.MessageToDict(send(request), preserving_proto_field_name=True)

    features = np.arange(4, dtype=np.float32).reshape(1, 4)
    expected = features @ EMBEDDER_WEIGHTS
    tensor = {
        "data_type": "DATA_TYPE_FLOAT32",
        "shape": [1, 4],
        "content": base64.b64encode(features.tobytes()).decode(),
    }
    predicted = call(
        "forwardpass.v1.InferenceService",
        "Predict",
        {"model": {"name": "emb"}, "inputs": {"features": tensor}},
    )
    contents = {"fp32_contents": features.ravel().tolist()}
    inferred = call(
        "inference.GRPCInferenceService",
        "ModelInfer",
        {
            "model_name": "emb",
            "inputs": [
                {"name": "features", "datatype": "FP32", "shape": [1, 4], "contents": contents}
            ],
        },
    )
    for content in (
        predicted["outputs"]["embedding"]["content"],
        inferred["raw_output_contents"][0],
    ):
        answer = np.frombuffer(base64.b64decode(content), np.float32)
        assert answer == pytest.approx(expected[0], abs=1e-5)


def test_both_versions_of_reflection_answer_alike(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(reflection=True)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="forwardpass.v1.InferenceService"
        ).SerializeToString(),
    ]

    def ask(version: str) -> list[bytes]:
        call: Any = running.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        )
        return list(call(iter(questions)))

    newer, older = ask("v1"), ask("v1alpha")
    assert newer == older
    assert len(newer) == 2


def test_reflection_is_off_by_default(repository: Publisher, start_server: StartServer) -> None:
    running = start_server()
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest()])))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def samples(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, text = get(running, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_every_call_and_never_a_caller_s_text(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server()
    pixels = classifier().golden
    assert pixels is not None
    request = PredictRequest(
        model=ModelReference(name="clf"),
        images=[encode_png(image) for image in pixels.inputs["image"]],
    )
    before = samples(running)
    for _ in range(3):
        running.inference.Predict(request)
    for index in range(20):
        failure_of(
            running.inference.Predict, PredictRequest(model=ModelReference(name=f"x{index}"))
        )
    failure_of(running.inference.Predict, PredictRequest(model=ModelReference(name="clf")))
    after = samples(running)

    def value(name: str, **labels: str) -> float:
        return after[name, frozenset(labels.items())]

    method = {
        "grpc_type": "unary",
        "grpc_service": "forwardpass.v1.InferenceService",
        "grpc_method": "Predict",
    }
    model = {"model": "clf", "version": "1"}
    assert value("grpc_server_started_total", **method) == 24
    assert value("grpc_server_handled_total", **method, grpc_code="OK") == 3
    assert value("grpc_server_handled_total", **method, grpc_code="NOT_FOUND") == 20
    assert value("grpc_server_handled_total", **method, grpc_code="INVALID_ARGUMENT") == 1
    assert value("grpc_server_handling_seconds_count", **method) == 24
    assert value("grpc_server_handling_seconds_bucket", **method, le="+Inf") == 24
    assert value("grpc_server_handling_seconds_sum", **method) > 0
    assert value("process_cpu_seconds_total") > 0
    assert value("process_resident_memory_bytes") > 0
    assert value("nv_inference_request_success", **model) == 3
    assert value("nv_inference_request_failure", **model) == 1
    assert value("nv_inference_count", **model) == 15
    assert value("nv_inference_exec_count", **model) == 3
    assert value("forwardpass_batch_rows_sum", **model) == 15
    assert value("forwardpass_batch_rows_bucket", **model, le="8.0") == 3
    for phase in ("decode", "queue", "compute", "encode"):
        assert value("forwardpass_phase_seconds_count", **model, phase=phase) == 3
        assert value("forwardpass_phase_seconds_sum", **model, phase=phase) > 0
    assert value("forwardpass_calls_in_flight") == 0
    assert value("forwardpass_request_bytes_in_flight") == 0
    # Only the codes that were seen for the first time are new.
    assert len(after) == len(before) + 3
