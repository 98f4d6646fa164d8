"""T05, T46 to T56, T60: overload, deadlines, cancelled calls, failures, batches."""

import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of, read_failure
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto
from tiny_models import (
    EMBEDDER_WEIGHTS,
    Publisher,
    busy,
    classifier,
    echo,
    embedder,
    maker,
    picker,
)

from forwardpass.server.scheduling import failure_detector
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictResponse
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_READY,
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason, from_tensor
from forwardpass.wire.open_inference import SERVICE as OPEN_INFERENCE
from forwardpass.wire.open_inference import message_class

from .harness import (
    NOT_SERVING,
    PATIENCE,
    SERVING,
    Gate,
    assert_idle,
    batching,
    check_health,
    connect,
    get,
    metric,
    pick,
    picked,
    predict,
    send,
    steps,
    stub_of,
    summaries,
    together,
)


def test_t05_health_is_answered_while_every_slot_is_taken(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_in_flight=4)
    gate.shut()
    calls = [send(running, pick(index)) for index in range(4)]
    gate.wait_submitted(4)
    for _ in range(20):
        assert check_health(running) == check_health(running, "pick") == SERVING
        assert get(running, "/readyz")[0] == get(running, "/livez")[0] == 200
        assert failure_of(running.inference.Predict, pick(0)).reason is Reason.QUEUE_FULL
    gate.open()
    assert [picked(call.result()) for call in calls] == [[0], [1], [2], [3]]
    assert_idle(running)


def test_t46_a_queue_holds_so_many_and_the_rest_is_refused_at_once(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_queued=4)
    gate.shut()
    calls = [send(running, pick(0))]
    gate.wait_started()
    refused = threading.Semaphore(0)
    for number in range(40):
        call = send(running, pick(number % 4))
        call.add_done_callback(lambda _: refused.release())
        calls.append(call)
    # They are refused while the one before them still runs.
    for _ in range(36):
        assert refused.acquire(timeout=PATIENCE)
    assert metric(running, "forwardpass_queue_jobs", model="pick") == 4
    assert metric(running, "nv_inference_pending_request_count", model="pick") == 4
    failed = [call for call in calls if call.done()]
    assert len(failed) == 36
    for call in failed:
        failure = read_failure(call.exception())
        assert failure.reason is Reason.QUEUE_FULL
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.retry_after == pytest.approx(0.1)
        assert failure.metadata["waiting"] == "4"
    gate.open()
    for number, call in enumerate(calls):
        if call not in failed:
            assert picked(call.result()) == [max(0, number - 1) % 4]
    assert picked(running.inference.Predict(pick(3))) == [3]
    assert_idle(running)


def test_t46_what_a_full_queue_refuses_is_not_read_before(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    """Decoding pictures only to refuse them would take the time of those that are accepted."""
    repository("clf", classifier())
    running = start_server(max_queued=1)
    image = np.zeros((1, 4, 4, 1), np.uint8)
    no_picture = PredictRequest(model=ModelReference(name="clf"), images=[b"no picture"])
    no_tensor = message_class("ModelInferRequest")(model_name="clf").SerializeToString()
    infer: Any = running.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def reasons() -> list[Reason]:
        failures = failure_of(running.inference.Predict, no_picture), failure_of(infer, no_tensor)
        return [failure.reason for failure in failures]

    gate.shut()
    calls = [send(running, predict("clf", {"image": image}))]
    gate.wait_started()
    gate.wait_submitted()
    calls.append(send(running, predict("clf", {"image": image})))
    gate.wait_submitted()
    assert reasons() == [Reason.QUEUE_FULL] * 2
    gate.open()
    for call in calls:
        call.result()
    assert reasons() == [Reason.INVALID_INPUT] * 2
    assert_idle(running)


def test_t47_requests_hold_so_many_bytes_and_the_rest_is_refused(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    """Ruled: what is watched is the bytes in flight, not the memory of the process."""
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(max_in_flight_bytes=100_000)
    request = predict("real", {"x": np.ones(15_000, np.float32)})
    gate.shut()
    first = send(running, request)
    gate.wait_started()
    failure = failure_of(running.inference.Predict, request)
    assert failure.reason is Reason.QUEUE_FULL
    assert failure.retry_after is not None
    assert "bytes of requests are in flight" in failure.message
    assert check_health(running) == SERVING
    small = send(running, predict("real", {"x": np.ones(1, np.float32)}))
    gate.open()
    assert first.result().outputs["y"] == request.inputs["x"]
    assert small.result().outputs
    assert running.inference.Predict(request).outputs["y"] == request.inputs["x"]
    assert_idle(running)


def test_t48_a_deadline_while_it_runs_ends_the_run(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("busy", busy())
    running = start_server()
    assert running.inference.Predict(steps(1)).outputs
    with pytest.raises(grpc.RpcError) as caught:
        running.inference.Predict(steps(100_000_000), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The one worker would be busy for an hour, had it not been stopped.
    assert running.inference.Predict(steps(1), timeout=PATIENCE).outputs
    assert_idle(running)


def test_t49_what_expired_in_the_queue_is_not_run(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    late = send(running, pick(3), timeout=0.2)
    with pytest.raises(grpc.RpcError) as caught:
        late.result()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    deadline = gate.jobs[-1].deadline
    assert deadline is not None
    threading.Event().wait(max(0.0, deadline - time.monotonic()))
    gate.open()
    assert picked(first.result()) == [0]
    assert picked(running.inference.Predict(pick(1))) == [1]
    assert [inputs["index"].tolist() for _, inputs in gate.runs] == [[0], [1]]
    assert metric(running, "nv_inference_exec_count", model="pick") == 2
    assert metric(running, "forwardpass_jobs_dropped_total", reason="expired") == 1
    assert_idle(running)


def test_t50_what_is_cancelled_in_the_queue_is_not_run_and_its_neighbours_are(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    (repository.root / "pick" / "config.pbtxt").write_text(batching(8))
    running = start_server()
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    calls = []
    for index in (1, 2, 3):
        calls.append(send(running, pick(index)))
        gate.wait_submitted(2 if index == 1 else 1)
    calls[1].cancel()
    gate.wait_abandoned(gate.jobs[2])
    gate.open()
    assert picked(first.result()) == [0]
    assert picked(calls[0].result()) == [1]
    assert picked(calls[2].result()) == [3]
    assert calls[1].code() is grpc.StatusCode.CANCELLED
    assert [inputs["index"].tolist() for _, inputs in gate.runs] == [[0], [1, 3]]
    assert metric(running, "forwardpass_jobs_dropped_total", reason="cancelled") == 1
    assert_idle(running)


def test_t50_cancelled_requests_make_room_in_a_full_queue(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("pick", picker()).parent
    (folder / "config.pbtxt").write_text("max_batch_size: 0")
    running = start_server(max_queued=2)
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    gate.wait_submitted()
    gone = [send(running, pick(1)) for _ in range(2)]
    gate.wait_submitted(2)
    assert failure_of(running.inference.Predict, pick(2)).reason is Reason.QUEUE_FULL
    gone[0].cancel()
    gone[1].cancel()
    waiting = {id(job) for job in gate.jobs[1:]}
    while waiting:
        waiting.discard(id(gate.abandoned.get(timeout=PATIENCE)))
    calls = [send(running, pick(index)) for index in (2, 3)]
    gate.wait_submitted(2)
    gate.open()
    assert [picked(call.result()) for call in (first, *calls)] == [[0], [2], [3]]
    assert len(gate.runs) == 3
    assert_idle(running)


def test_t51_a_run_whose_caller_has_gone_is_ended(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("busy", busy())
    running = start_server()
    call = send(running, steps(100_000_000))
    gate.wait_started()
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert running.inference.Predict(steps(1), timeout=PATIENCE).outputs
    assert_idle(running)
    method = {"grpc_method": "Predict", "grpc_service": "forwardpass.v1.InferenceService"}
    assert metric(running, "grpc_server_handled_total", **method, grpc_code="CANCELLED") == 1
    assert metric(running, "grpc_server_handled_total", **method, grpc_code="OK") == 1


def test_t51_a_run_goes_on_while_one_of_its_callers_waits(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    (repository.root / "pick" / "config.pbtxt").write_text(batching(8))
    running = start_server()
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    gate.wait_submitted()
    pair = [send(running, pick(1))]
    gate.wait_submitted()
    pair.append(send(running, pick(2)))
    gate.wait_submitted()
    # Both are in one run; then one caller leaves it.
    gate.let_one_pass()
    first.result()
    gate.wait_started()
    pair[0].cancel()
    gate.wait_abandoned(gate.jobs[1])
    gate.open()
    assert picked(pair[1].result()) == [2]
    assert_idle(running)


def test_t52_cancel_and_finish_race(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Calls that take a moment are cancelled at once, at a random moment of it, or too late."""
    repository("pick", picker())
    (repository.root / "pick" / "config.pbtxt").write_text(batching(8))
    running = start_server()
    moment = threading.Event()
    begun = time.perf_counter()
    for _ in range(10):
        running.inference.Predict(pick(0))
    mean = (time.perf_counter() - begun) / 10
    ends: list[str] = []

    def race(index: int) -> None:
        chance = random.Random(index)
        with connect(running) as channel:
            for _ in range(75):
                wanted = chance.randrange(4)
                call = stub_of(channel).Predict.future(pick(wanted), timeout=PATIENCE)
                when = chance.randrange(8)
                if when == 0:
                    assert picked(call.result()) == [wanted]
                elif when > 1:
                    moment.wait(chance.uniform(0, 2 * mean))
                call.cancel()
                try:
                    assert picked(call.result()) == [wanted]
                    ends.append("OK")
                except grpc.FutureCancelledError:
                    ends.append("CANCELLED")

    together(4, race)
    assert len(ends) == 300
    assert set(ends) == {"OK", "CANCELLED"}
    # What was cancelled last may still wait for its turn.
    assert picked(running.inference.Predict(pick(2))) == [2]
    assert_idle(running)
    output = capfd.readouterr()
    assert "call_failed" not in output.out + output.err
    assert "Traceback" not in output.out + output.err


def test_t53_a_client_that_is_killed_leaves_nothing(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("pick", picker()).parent
    (folder / "config.pbtxt").write_text("max_batch_size: 0")
    running = start_server()
    gate.shut()
    code = (
        "import sys, threading, grpc\n"
        "with grpc.insecure_channel(sys.argv[1]) as channel:\n"
        "    call = channel.unary_unary('/forwardpass.v1.InferenceService/Predict')\n"
        "    calls = [call.future(bytes.fromhex(sys.argv[2])) for _ in range(50)]\n"
        "    threading.Event().wait()\n"
    )
    message = pick(1).SerializeToString().hex()
    client = subprocess.Popen([sys.executable, "-c", code, running.address, message])
    try:
        gate.wait_submitted(50)
        assert metric(running, "forwardpass_calls_in_flight") == 50
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(PATIENCE)
    # All of them end though the model has answered none.
    assert running.server._admission.wait_idle(PATIENCE)
    gate.open()
    assert picked(running.inference.Predict(pick(2))) == [2]
    assert len(gate.runs) == 2
    assert metric(running, "forwardpass_jobs_dropped_total", reason="cancelled") == 49
    assert_idle(running)


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_t54_one_bad_row_in_a_batch_of_eight_fails_alone(
    gate: Gate, repository: Publisher, start_server: StartServer, bad: int
) -> None:
    repository("pick", picker())
    (repository.root / "pick" / "config.pbtxt").write_text(batching(8))
    running = start_server()
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    gate.wait_submitted()
    calls = []
    for number in range(8):
        calls.append(send(running, pick(99 if number == bad else number % 4)))
        gate.wait_submitted()
    gate.open()
    first.result()
    for number, call in enumerate(calls):
        if number == bad:
            failure = read_failure(call.exception())
            assert failure.reason is Reason.INVALID_INPUT
            assert "the model refuses the values" in failure.message
        else:
            assert picked(call.result()) == [number % 4]
    assert [len(inputs["index"]) for _, inputs in gate.runs] == [1, 8, *[1] * 8]
    assert metric(running, "nv_inference_request_success", model="pick") == 8
    assert metric(running, "nv_inference_request_failure", model="pick") == 1
    assert_idle(running)


def test_t54_requests_are_gathered_within_the_delay_that_is_configured(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    # A minute at most, but no longer than it takes to fill a run.
    text = batching(8, max_queue_delay_microseconds=60_000_000)
    (repository.root / "pick" / "config.pbtxt").write_text(text)
    running = start_server()
    calls = [send(running, pick(number % 4, timing=True)) for number in range(8)]
    for number, call in enumerate(calls):
        assert picked(call.result()) == [number % 4]
        assert call.result().timing.batch_rows == 8
    assert len(gate.runs) == 1


def test_t54_t122_what_fails_inside_onnx_runtime_tells_the_caller_why_and_no_paths(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("maker", maker())
    running = start_server()
    for extent in (-1, 2**62):
        request = predict("maker", {"shape": np.array([extent])})
        failure = failure_of(running.inference.Predict, request)
        assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "inputs")
        assert failure.message.startswith("the model refuses the values: Non-zero status code")
        assert "ConstantOfShape" in failure.message
        for secret in ("/", ".cc", "[ONNXRuntimeError]"):
            assert secret not in failure.message
    good = running.inference.Predict(predict("maker", {"shape": np.array([3])}))
    assert from_tensor(good.outputs["zeros"]).tolist() == [0, 0, 0]


def test_t55_different_shapes_are_never_in_one_run(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("real", echo(TensorProto.FLOAT, ["n", "m"]))
    (repository.root / "real" / "config.pbtxt").write_text(batching(16))
    running = start_server()
    gate.shut()
    first = send(running, predict("real", {"x": np.zeros((1, 1), np.float32)}))
    gate.wait_started()
    gate.wait_submitted()
    arrays = [np.full((1, 2 + number % 2), number, np.float32) for number in range(8)]
    calls = []
    for array in arrays:
        calls.append(send(running, predict("real", {"x": array})))
        gate.wait_submitted()
    gate.open()
    first.result()
    for array, call in zip(arrays, calls, strict=True):
        assert (from_tensor(call.result().outputs["y"]) == array).all()
    assert [inputs["x"].shape for _, inputs in gate.runs] == [(1, 1), (4, 2), (4, 3)]


def test_t55_different_models_versions_and_outputs_are_never_in_one_run(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    for name, number in (("clf", 1), ("clf", 2), ("other", 1)):
        repository(name, classifier(bias=number), number)
        text = batching(16) + "version_policy: { all: {} }"
        (repository.root / name / "config.pbtxt").write_text(text)
    running = start_server()
    image = np.zeros((1, 4, 4, 1), np.uint8)
    who = [("clf", 1), ("clf", 2), ("other", 1)]
    gate.shut()
    calls = [
        (one, send(running, predict(one[0], {"image": image}, version=one[1], timing=True)))
        for one in who * 5
    ]
    gate.wait_submitted(15)
    gate.open()
    for one, call in calls:
        response = call.result()
        assert (response.model.name, response.model.version) == one
        # A run has at most the rows of its own version's five requests.
        assert response.timing.batch_rows <= 5
        scores = np.exp([0, 0, one[1]])
        answer = from_tensor(response.outputs["probabilities"])[0]
        assert answer == pytest.approx(scores / scores.sum(), abs=1e-6)
    assert len({session for session, _ in gate.runs}) == 3


def test_t56_a_run_that_fails_fails_its_own_requests_and_no_others(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    repository("emb", embedder())
    running = start_server()
    gate.errors = [RuntimeError("secret"), MemoryError("secret"), ValueError("secret")]
    for _ in range(3):
        failure = failure_of(running.inference.Predict, pick(0))
        assert failure.reason is Reason.INTERNAL
        assert "secret" not in failure.message
    assert picked(running.inference.Predict(pick(1))) == [1]
    features = np.ones((1, 4), np.float32)
    response = running.inference.Predict(predict("emb", {"features": features}))
    answer = from_tensor(response.outputs["embedding"])
    assert answer == pytest.approx(features @ EMBEDDER_WEIGHTS, abs=1e-5)
    assert_idle(running)


def failing(running: Running, name: str) -> bool:
    """Whether a model is said to fail, as every way to ask tells it."""
    said = check_health(running, name) == NOT_SERVING
    call: Any = running.channel.unary_unary(
        f"/{OPEN_INFERENCE}/ModelReady",
        response_deserializer=message_class("ModelReadyResponse").FromString,
    )
    request: Any = message_class("ModelReadyRequest")(name=name)
    assert call(request.SerializeToString(), timeout=PATIENCE).ready is not said
    summary = summaries(running)[name, 1]
    assert summary.state == MODEL_STATE_READY
    assert bool(summary.state_reason) is said
    assert metric(running, "forwardpass_model_failing", model=name) == said
    return said


def fail(running: Running, count: int) -> None:
    for _ in range(count):
        assert failure_of(running.inference.Predict, pick(0)).reason is Reason.INTERNAL


def watch(running: Running, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)


def broken(gate: Gate, repository: Publisher, start_server: StartServer) -> Running:
    """Returns a server of two models, of which the picker answers nothing any more."""
    repository("pick", picker())
    repository("emb", embedder())
    running = start_server()
    assert picked(running.inference.Predict(pick(1))) == [1]
    gate.broken.add(gate.runs[-1][0])
    assert not failing(running, "pick")
    return running


def test_t56_t121_a_model_that_fails_its_known_good_input_is_not_serving_and_others_are(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", 2 * PATIENCE)
    running = broken(gate, repository, start_server)
    model = watch(running, "pick")
    assert next(model).status == SERVING
    fail(running, 1)
    assert next(model).status == NOT_SERVING
    assert failing(running, "pick")
    # The others serve, and so does the server.
    assert not failing(running, "emb")
    assert check_health(running) == SERVING
    assert (get(running, "/readyz")[0], get(running, "/livez")[0]) == (200, 200)
    assert running.inference.Predict(
        predict("emb", {"features": np.ones((1, 4), np.float32)}), timeout=PATIENCE
    ).outputs
    # Calls still reach it; what a caller sends does not judge it.
    fail(running, 3)
    gate.broken.clear()
    assert picked(running.inference.Predict(pick(2))) == [2]
    assert failing(running, "pick")
    assert_idle(running)


def test_t56_t121_a_model_serves_again_by_itself_once_it_can(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", 0.05)
    running = broken(gate, repository, start_server)
    statuses = watch(running, "pick")
    assert next(statuses).status == SERVING
    (session,) = gate.broken
    for _ in range(2):
        while check_health(running, "pick") == SERVING:
            # Within the pause after a trial, its verdict stands.
            fail(running, 1)
        assert next(statuses).status == NOT_SERVING
        runs = len(gate.runs)
        gate.broken.clear()
        assert next(statuses).status == SERVING
        assert len(gate.runs) == runs
        assert not failing(running, "pick")
        gate.broken.add(session)


def test_t56_a_failing_version_can_be_unloaded_and_loaded_again(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_detector, "PAUSE", 2 * PATIENCE)
    repository("pick", picker())
    running = start_server(management_port=0)
    assert picked(running.inference.Predict(pick(1))) == [1]
    gate.broken.add(gate.runs[-1][0])
    statuses = watch(running, "pick")
    assert next(statuses).status == SERVING
    fail(running, 1)
    assert next(statuses).status == NOT_SERVING
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        manage: Any = ModelServiceStub(channel)
        reference = ModelReference(name="pick")
        manage.UnloadModel(UnloadModelRequest(model=reference), timeout=PATIENCE)
        manage.LoadModel(LoadModelRequest(model=reference), timeout=PATIENCE)
    assert not failing(running, "pick")
    assert picked(running.inference.Predict(pick(1))) == [1]


def test_t56_t121_callers_cannot_make_a_model_fail_that_works(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    """Values at which ONNX Runtime fails, and not as it does at values that are wrong."""
    repository("maker", maker())
    running = start_server()
    statuses = watch(running, "maker")
    assert next(statuses).status == SERVING
    request = predict("maker", {"shape": np.array([-1])})
    for _ in range(20):
        failure = failure_of(running.inference.Predict, request)
        assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "inputs")
        # ONNX Runtime's own sentence, without the paths of its sources.
        assert "while running" in failure.message
        assert "/" not in failure.message
        assert len(failure.message.encode()) <= 300
    assert not failing(running, "maker")
    running.server.readiness.drain()
    # Between the two nothing was told.
    assert [one.status for one in statuses] == [NOT_SERVING]


def test_t56_calls_that_end_early_and_wrong_requests_are_no_faults(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[failure_detector.FailureDetector] = []

    def find(judged: failure_detector.FailureDetector) -> bool:
        found.append(judged)
        return False

    monkeypatch.setattr(failure_detector.FailureDetector, "failed", find)
    repository("pick", picker())
    repository("busy", busy())
    running = start_server()
    for _ in range(5):
        assert failure_of(running.inference.Predict, pick(99)).reason is Reason.INVALID_INPUT
        gate.wait_started()
        gate.wait_submitted()
        call = send(running, steps(100_000_000))
        gate.wait_started()
        gate.wait_submitted()
        call.cancel()
        gate.wait_abandoned(gate.jobs[-1])
    assert running.inference.Predict(steps(1), timeout=PATIENCE).outputs
    assert found == []
    # Nor is it that nothing would be: this is one.
    gate.errors = [RuntimeError("broken")]
    assert failure_of(running.inference.Predict, pick(0)).reason is Reason.INTERNAL
    assert len(found) == 1
    assert_idle(running)


def test_t60_a_request_is_answered_alike_alone_and_among_others(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    (repository.root / "emb" / "config.pbtxt").write_text(batching(8))
    running = start_server()
    features = np.random.default_rng(6).normal(size=(8, 1, 4)).astype(np.float32)

    def ask(count: int) -> list[PredictResponse]:
        """The answers to the first so many, in one run."""
        gate.shut()
        blocker = send(running, predict("emb", {"features": features[0]}))
        gate.wait_started()
        gate.wait_submitted()
        calls: list[Any] = []
        for row in features[:count]:
            calls.append(send(running, predict("emb", {"features": row}, timing=True)))
            gate.wait_submitted()
        gate.open()
        blocker.result()
        gate.wait_started()
        return [call.result() for call in calls]

    alone = [running.inference.Predict(predict("emb", {"features": row})) for row in features]
    gate.wait_started(8)
    gate.wait_submitted(8)
    for count in range(2, 9):
        answers, again = ask(count), ask(count)
        for row in range(count):
            assert answers[row].timing.batch_rows == count
            assert answers[row].outputs == again[row].outputs
            one, other = (
                from_tensor(response.outputs["embedding"])
                for response in (answers[row], alone[row])
            )
            assert np.abs(one - other).max() <= 1e-5
            assert one == pytest.approx(features[row] @ EMBEDDER_WEIGHTS, abs=1e-5)


def test_t60_each_answer_has_its_request_s_id_whatever_order_they_end_in(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    (repository.root / "pick" / "config.pbtxt").write_text("instance_group { count: 4 }")
    running = start_server()
    infer: Any = running.channel.unary_unary(
        f"/{OPEN_INFERENCE}/ModelInfer",
        response_deserializer=message_class("ModelInferResponse").FromString,
    )
    gate.shut()
    calls = {}
    for index in range(4):
        request: Any = message_class("ModelInferRequest")(model_name="pick", id=f"request {index}")
        request.inputs.add(name="index", datatype="INT64", shape=[1])
        request.raw_input_contents.append(np.array([index], np.int64).tobytes())
        calls[index] = infer.future(request.SerializeToString(), timeout=PATIENCE)
        # One at a time, as those that wait together are gathered into one run.
        gate.wait_started()
    # All four run at a time, and whichever thread wakes first ends first.
    gate.open()
    for index, call in calls.items():
        answer = call.result()
        assert answer.id == f"request {index}"
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [index]


def slow_steps(running: Running) -> int:
    """Returns how many steps keep the busy model for 50 ms at least."""
    count = 1_000
    while True:
        timing = running.inference.Predict(steps(count, timing=True), timeout=PATIENCE).timing
        if timing.compute.ToTimedelta().total_seconds() >= 0.05:
            return count
        count *= 2


def test_t05_health_is_answered_at_ten_times_what_a_model_can_answer(
    repository: Publisher, start_server: StartServer
) -> None:
    """Fifty callers, ten times as many as the model and its queue hold, who never let go."""
    repository("busy", busy())
    running = start_server(max_queued=4)
    request = steps(slow_steps(running))
    probed = threading.Event()
    answered = threading.Semaphore(0)
    ends: list[Reason | None] = []

    def press(_: int) -> None:
        with connect(running) as channel:
            stub = stub_of(channel)
            while not probed.is_set():
                try:
                    response = stub.Predict(request, timeout=PATIENCE)
                except grpc.RpcError as error:
                    failure = read_failure(error)
                    assert failure.reason is Reason.QUEUE_FULL
                    assert failure.retry_after is not None
                    ends.append(failure.reason)
                    probed.wait(failure.retry_after)
                else:
                    assert from_tensor(response.outputs["size"]).tolist() == [64, 64]
                    ends.append(None)
                    answered.release()

    def probe() -> None:
        try:
            for _ in range(20):
                # An answer between any two probes: the model is never idle.
                assert answered.acquire(timeout=PATIENCE)
                assert check_health(running) == SERVING
                assert get(running, "/readyz")[0] == 200
                assert metric(running, "forwardpass_queue_jobs", model="busy") <= 4
        finally:
            probed.set()

    together(51, lambda index: press(index) if index else probe())
    # It was an overload of ten: of ten that came, nine at least had to be refused.
    assert ends.count(Reason.QUEUE_FULL) >= 9 * ends.count(None)
    assert running.inference.Predict(steps(1)).outputs
    assert_idle(running)


def test_t54_what_callers_get_wrong_writes_no_lines_of_onnx_runtime(
    repository: Publisher, start_server: StartServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its lines are not as ours are, and callers could fill the log with them."""
    repository("pick", picker())
    running = start_server()
    for _ in range(10):
        assert failure_of(running.inference.Predict, pick(99)).reason is Reason.INVALID_INPUT
    output = capfd.readouterr()
    assert "onnxruntime" not in (output.out + output.err).lower()
