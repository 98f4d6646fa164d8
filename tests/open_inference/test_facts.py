"""What the protocol tells of the server and its models."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import metric
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto
from tiny_models import Publisher, classifier, echo, embedder

from forwardpass.artefact import CARD_KEY, card_from_json
from forwardpass.server.metrics.counters import BATCH_SIZES, ModelCounters
from forwardpass.server.open_inference.response import encode
from forwardpass.server.repository.version import Version
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.job import Job
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Reason
from forwardpass.wire.open_inference import SERVICE

from .calls import Calls, emb, new
from .conftest import Hold


def by_name(items: Any) -> dict[str, Any]:
    return {item.name: item for item in items}


def test_a_server_is_live_before_it_is_ready(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository("emb", embedder())
    may_load = threading.Event()
    load = Version.load

    def held(self: Version, *arguments: Any) -> None:
        assert may_load.wait(30)
        load(self, *arguments)

    monkeypatch.setattr(Version, "load", held)
    running = start_server(wait=False)
    calls = Calls(running.channel)
    assert calls("ServerLive").live
    assert not calls("ServerReady").ready
    assert not calls("ModelReady", name="emb").ready
    assert failure_of(calls.infer, emb()).reason is Reason.MODEL_LOADING
    assert failure_of(calls, "ModelMetadata", name="emb").reason is Reason.MODEL_LOADING
    (entry,) = calls("RepositoryIndex").models
    assert (entry.state, entry.reason) == ("UNAVAILABLE", "not loaded")
    assert not calls("RepositoryIndex", ready=True).models
    may_load.set()
    running.server.wait_loaded()
    assert calls("ServerReady").ready
    assert calls("ModelReady", name="emb").ready
    assert calls("ModelReady", name="emb", version="1").ready


def test_a_model_that_failed_is_not_ready_and_says_why(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    folder = repository("bad", classifier())
    (folder / "model.onnx").write_bytes(b"nonsense")
    calls = Calls(start_server().channel)
    assert calls("ServerLive").live
    assert not calls("ServerReady").ready
    assert not calls("ModelReady", name="bad").ready
    assert failure_of(calls, "ModelMetadata", name="bad").reason is Reason.MODEL_FAILED
    assert failure_of(calls, "ModelStatistics", name="bad").reason is Reason.MODEL_FAILED
    bad, good = calls("RepositoryIndex").models
    assert (bad.name, bad.version, bad.state) == ("bad", "1", "UNAVAILABLE")
    assert "model.onnx" in bad.reason
    assert (good.name, good.version, good.state, good.reason) == ("emb", "1", "READY", "")
    assert [entry.name for entry in calls("RepositoryIndex", ready=True).models] == ["emb"]
    assert [one.name for one in calls("ModelStatistics").model_stats] == ["emb"]


def test_a_draining_server_is_live_and_not_ready(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server()
    running.server.readiness.drain()
    calls = Calls(running.channel)
    assert calls("ServerLive").live
    assert not calls("ServerReady").ready
    assert not calls("ModelReady", name="emb").ready


def test_the_server_names_what_it_answers_and_no_more(calls: Calls) -> None:
    metadata = calls("ServerMetadata")
    assert metadata.name == "forwardpass"
    assert metadata.version
    assert metadata.extensions == [
        *("binary_tensor_data", "classification", "model_configuration", "parameters"),
        *("schedule_policy", "statistics"),
    ]


@pytest.mark.parametrize(
    "method",
    [
        *("RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus"),
        *("SystemSharedMemoryRegister", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"),
    ],
)
def test_t68_t72_what_is_not_served_is_unimplemented(running: Running, method: str) -> None:
    call: Any = running.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_has_the_batch_axis(calls: Calls) -> None:
    metadata = calls("ModelMetadata", name="clf")
    assert (metadata.name, metadata.versions) == ("clf", ["1"])
    assert metadata.platform == "onnxruntime_onnx"
    (image,), (probabilities,) = metadata.inputs, metadata.outputs
    assert (image.name, image.datatype, image.shape) == ("image", "UINT8", [-1, 4, 4, 1])
    assert (probabilities.datatype, probabilities.shape) == ("FP32", [-1, 3])
    assert calls("ModelMetadata", name="text").inputs[0].datatype == "BYTES"
    assert calls("ModelMetadata", name="half").outputs[0].datatype == "FP16"


def test_the_configuration_has_rows_apart_and_the_card(calls: Calls, running: Running) -> None:
    config = calls("ModelConfig", name="clf").config
    assert (config.name, config.platform, config.backend) == (
        *("clf", "onnxruntime_onnx", "onnxruntime"),
    )
    assert config.max_batch_size == 64
    (image,), (probabilities,) = config.input, config.output
    types = new("ModelConfig").DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert image.data_type == types["TYPE_UINT8"].number
    assert image.dims == [4, 4, 1]
    assert image.format == image.FORMAT_NHWC
    assert (probabilities.data_type, probabilities.dims) == (types["TYPE_FP32"].number, [3])
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, group.KIND_CPU)
    assert not config.model_transaction_policy.decoupled
    model = running.models.GetModel(GetModelRequest(model=ModelReference(name="clf"))).model
    assert card_from_json(config.parameters[CARD_KEY].string_value) == model.card
    assert json.loads(config.parameters[CARD_KEY].string_value)
    assert config.parameters["forwardpass.digest"].string_value == model.digest
    assert config.HasField("dynamic_batching") == model.batching.enabled


def test_a_model_without_a_batch_axis_has_all_of_its_dimensions(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("flag", echo(TensorProto.BOOL, ["n"])).parent
    (folder / "config.pbtxt").write_text("max_batch_size: 0")
    config = Calls(start_server().channel)("ModelConfig", name="flag").config
    assert config.max_batch_size == 0
    assert config.input[0].dims == [-1]
    assert not config.HasField("dynamic_batching")
    assert set(config.parameters) == {"forwardpass.digest"}


def test_the_configuration_tells_what_config_pbtxt_decides(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("real", echo(TensorProto.FLOAT, ["n", 3])).parent
    (folder / "classes.txt").write_text("a\nb\nc\n")
    (folder / "config.pbtxt").write_text("""
        max_batch_size: 16
        version_policy { specific { versions: [1, 3] } }
        instance_group { count: 2 }
        output { name: "y" data_type: TYPE_FP32 dims: 3 label_filename: "classes.txt" }
        dynamic_batching {
          max_queue_delay_microseconds: 100 priority_levels: 3 default_priority_level: 2
          default_queue_policy { max_queue_size: 5 }
        }
    """)
    calls = Calls(start_server().channel)
    config = calls("ModelConfig", name="real").config
    assert config.max_batch_size == 16
    assert config.version_policy.specific.versions == [1, 3]
    assert config.instance_group[0].count == 2
    assert config.output[0].label_filename == "classes.txt"
    batching = config.dynamic_batching
    assert batching.preferred_batch_size == [16]
    assert batching.max_queue_delay_microseconds == 100
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    assert batching.default_queue_policy.max_queue_size == 5
    request = new("ModelInferRequest", model_name="real")
    request.inputs.add(
        name="x", datatype="FP32", shape=[1, 3], contents={"fp32_contents": [1, 3, 2]}
    )
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    (raw,) = calls.infer(request).raw_output_contents
    assert b"3.000000:1:b" in raw
    assert b"2.000000:2:c" in raw


def test_all_versions_may_be_served(repository: Publisher, start_server: StartServer) -> None:
    folder = repository("real", echo(TensorProto.FLOAT, ["n"])).parent
    repository("real", echo(TensorProto.FLOAT, ["n"]), 2)
    (folder / "config.pbtxt").write_text("version_policy { all {} }")
    calls = Calls(start_server().channel)
    assert calls("ModelConfig", name="real").config.version_policy.HasField("all")
    assert calls("ModelMetadata", name="real").versions == ["1", "2"]
    assert calls("ModelMetadata", name="real", version="1").versions == ["1"]
    assert [e.version for e in calls("RepositoryIndex").models] == ["1", "2"]
    assert len(calls("ModelStatistics", name="real").model_stats) == 2
    (one,) = calls("ModelStatistics", name="real", version="1").model_stats
    assert one.version == "1"


def test_statistics_count_rows_runs_and_times(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    calls = Calls(start_server().channel)
    before = time.time_ns() // 1_000_000
    for rows in (1, 2, 3):
        calls.infer(emb(np.zeros((rows, 4), np.float32)))
    failure_of(calls.infer, emb(np.zeros((1, 3), np.float32)))
    (statistics,) = calls("ModelStatistics", name="emb").model_stats
    assert before <= statistics.last_inference <= time.time_ns() // 1_000_000
    assert (statistics.name, statistics.version) == ("emb", "1")
    assert (statistics.inference_count, statistics.execution_count) == (6, 3)
    spent = statistics.inference_stats
    assert (spent.success.count, spent.fail.count) == (3, 1)
    parts = (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output)
    assert [part.count for part in parts] == [3, 3, 3, 3]
    assert all(part.ns for part in parts)
    assert spent.success.ns > sum(part.ns for part in parts)
    assert spent.fail.ns > 0
    batches = statistics.batch_stats
    assert [(b.batch_size, b.compute_infer.count) for b in batches] == [(1, 1), (2, 1), (3, 1)]
    assert sum(batch.compute_infer.ns for batch in batches) == pytest.approx(
        spent.compute_infer.ns, abs=3
    )


def test_a_model_that_nobody_called_has_no_statistics(calls: Calls) -> None:
    (statistics,) = calls("ModelStatistics", name="half").model_stats
    unused = new("ModelStatistics", name="half", version="1", inference_stats={})
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        getattr(unused.inference_stats, part).SetInParent()
    assert statistics == unused


def test_a_run_s_time_counts_for_each_request_that_it_answers(
    hold: Hold, repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Triton counts: else the time of a request would seem shorter, the more share a run."""
    folder = repository("emb", embedder()).parent
    (folder / "config.pbtxt").write_text("dynamic_batching { }")
    calls = Calls(start_server().channel)
    submitted = threading.Semaphore(0)
    submit = ThreadExecutor.submit

    def told(self: ThreadExecutor, job: Job) -> None:
        submit(self, job)
        submitted.release()

    monkeypatch.setattr(ThreadExecutor, "submit", told)
    hold.hold()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(calls.infer, emb())]
        assert hold.busy.wait(30)
        answers += [pool.submit(calls.infer, emb()) for _ in range(4)]
        for _ in range(5):
            assert submitted.acquire(timeout=30)
        hold.release.set()
        for answer in answers:
            answer.result()
    (statistics,) = calls("ModelStatistics", name="emb").model_stats
    spent = statistics.inference_stats
    assert (statistics.execution_count, statistics.inference_count) == (2, 10)
    assert (spent.success.count, spent.compute_infer.count) == (5, 5)
    one, four = statistics.batch_stats
    assert [(b.batch_size, b.compute_infer.count) for b in (one, four)] == [(2, 1), (8, 1)]
    assert spent.compute_infer.ns == pytest.approx(
        one.compute_infer.ns + 4 * four.compute_infer.ns, abs=5
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_statistics_taken_in_the_middle_of_a_request_agree(
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,
) -> None:
    """perf_analyzer ends where one part has been counted for a request, and another has not."""
    repository("emb", embedder())
    running = start_server()
    calls = Calls(running.channel)
    encoding, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> bytes:
        encoding.set()
        assert go_on.wait(30)
        return encode(*arguments)

    monkeypatch.setattr("forwardpass.server.open_inference.infer.encode", held)
    answer = (
        calls.stream([emb().SerializeToString()])
        if streamed
        else calls.channel.unary_unary(f"/{SERVICE}/ModelInfer").future(emb().SerializeToString())
    )
    assert encoding.wait(30)
    # The same counters, by the way that never waits for the transport.
    assert metric(running, "nv_inference_exec_count") == 1
    assert metric(running, "nv_inference_request_success") == 0
    for phase in ("decode", "compute", "encode"):
        assert metric(running, "forwardpass_phase_seconds_count", phase=phase) == 0
    go_on.set()
    next(answer) if streamed else answer.result()
    (after,) = calls("ModelStatistics", name="emb").model_stats
    assert after.execution_count == 1
    spent = after.inference_stats
    parts = (spent.compute_input, spent.compute_infer, spent.compute_output, spent.success)
    assert [part.count for part in parts] == [1] * 4


def test_sizes_of_runs_that_callers_choose_do_not_pile_up() -> None:
    counters = ModelCounters()
    for rows in range(1, BATCH_SIZES + 100):
        counters.ran(counters.begin_run(), rows, [0.0], 0.25)
    counters.ran(counters.begin_run(), 1, [0.0], 0.25)
    batches = counters.batches()
    assert len(batches) == BATCH_SIZES
    assert batches[0] == (1, 2, 0.5)
    assert counters.runs == BATCH_SIZES + 100


def test_there_is_one_repository_and_it_has_no_name(calls: Calls) -> None:
    failure = failure_of(calls, "RepositoryIndex", repository_name="elsewhere")
    assert failure.reason is Reason.UNIMPLEMENTED
    assert failure.field == "repository_name"


def managing(running: Running) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}")


def test_models_are_loaded_and_unloaded_where_that_is_allowed(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    running = start_server(management_port=0)
    calls = Calls(running.channel)
    assert "model_repository" in calls("ServerMetadata").extensions
    with managing(running) as channel:
        change = Calls(channel)
        harmless = {"unload_dependents": new("ModelRepositoryParameter", bool_param=False)}
        for method, parameters, ready, state in (
            ("RepositoryModelUnload", harmless, False, ("UNAVAILABLE", "unloaded")),
            ("RepositoryModelLoad", {}, True, ("READY", "")),
        ):
            change(method, model_name="emb", parameters=parameters)
            assert calls("ModelReady", name="emb").ready == ready
            (entry,) = calls("RepositoryIndex").models
            assert (entry.state, entry.reason) == state
        unknown = failure_of(change, "RepositoryModelLoad", model_name="embb")
        assert unknown.reason is Reason.MODEL_NOT_FOUND
        config = {"config": new("ModelRepositoryParameter", string_param="{}")}
        refused = failure_of(change, "RepositoryModelLoad", model_name="emb", parameters=config)
        assert refused.reason is Reason.UNIMPLEMENTED


def test_nothing_is_loaded_or_unloaded_where_that_is_not_allowed(running: Running) -> None:
    calls = Calls(running.channel)
    assert "model_repository" not in calls("ServerMetadata").extensions
    for method in ("RepositoryModelUnload", "RepositoryModelLoad"):
        with pytest.raises(grpc.RpcError) as caught:
            calls(method, model_name="emb")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert calls("ModelReady", name="emb").ready


def test_reflection_and_health_know_the_service(
    repository: Publisher, start_server: StartServer
) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    repository("emb", embedder())
    running = start_server(reflection=True)
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
    assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService"
        ),
    ]
    services, files = stub.ServerReflectionInfo(iter(questions))
    names = [service.name for service in services.list_services_response.service]
    assert "inference.GRPCInferenceService" in names
    assert len(files.file_descriptor_response.file_descriptor_proto) == 2
