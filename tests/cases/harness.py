"""What the cases share: requests with known answers, a gate before the models, gauges."""

import ctypes
import gc
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.job import Job
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import (
    ListModelsRequest,
    LoadModelRequest,
    ModelReference,
    ModelSummary,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Array, from_tensor, to_tensor

# No case waits this long; one that would is broken, and says so here.
PATIENCE = 60
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Gate:
    """Stands before every run that calls ask for, and can be shut; runs at loading pass it.

    To be made before the server, which keeps what it calls.

    Attributes:
        submitted: Released for each job that has entered a queue.
        started: Released for each run that has reached the gate.
        abandoned: Each job whose call has ended.
        jobs: The jobs that have entered a queue.
        runs: The session and the inputs of each run that has reached the gate.
        errors: Each is raised by one run instead of running.
        broken: Sessions of which every run fails, also those that no call asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.submitted = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.abandoned: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.jobs: list[Job] = []
        self.runs: list[tuple[Session, Mapping[str, Array]]] = []
        self.errors: list[Exception] = []
        self.broken: set[Session] = set()
        self._moved = threading.Condition()
        self._is_open, self._permits = True, 0
        run, submit, abandon = Session.run, ThreadExecutor.submit, Job.abandon

        def gated(
            session: Session,
            outputs: Sequence[str],
            inputs: Mapping[str, Array],
            on_begin: Callable[[Callable[[], None]], None] | None = None,
        ) -> list[Array]:
            if on_begin is not None:
                self.runs.append((session, inputs))
                self.started.release()
                self._pass()
                if self.errors:
                    raise self.errors.pop()
            if session in self.broken:
                raise RuntimeError("broken")
            return run(session, outputs, inputs, on_begin)

        def submit_and_tell(worker: ThreadExecutor, job: Job) -> None:
            submit(worker, job)
            self.jobs.append(job)
            self.submitted.release()

        def abandon_and_tell(job: Job) -> None:
            abandon(job)
            self.abandoned.put(job)

        monkeypatch.setattr(Session, "run", gated)
        monkeypatch.setattr(ThreadExecutor, "submit", submit_and_tell)
        monkeypatch.setattr(Job, "abandon", abandon_and_tell)

    def _pass(self) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: self._is_open or self._permits, PATIENCE)
            self._permits -= not self._is_open

    def shut(self) -> None:
        with self._moved:
            self._is_open = False

    def open(self) -> None:
        with self._moved:
            self._is_open = True
            self._moved.notify_all()

    def let_one_pass(self) -> None:
        with self._moved:
            self._permits += 1
            self._moved.notify()

    def wait_submitted(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.submitted.acquire(timeout=PATIENCE)

    def wait_started(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.started.acquire(timeout=PATIENCE)

    def wait_abandoned(self, job: Job) -> None:
        """Returns when the server knows that nobody waits for the job any more."""
        while self.abandoned.get(timeout=PATIENCE) is not job:
            pass


def predict(name: str, inputs: Mapping[str, Array], **fields: Any) -> PredictRequest:
    """Returns a request; `version` or `label` select."""
    selector = {key: fields.pop(key) for key in ("version", "label") if key in fields}
    return PredictRequest(
        model=ModelReference(name=name, **selector),
        inputs={key: to_tensor(array) for key, array in inputs.items()},
        **fields,
    )


def pick(*index: int, **fields: Any) -> PredictRequest:
    """Returns a request to the picker, which answers with the indices as floats."""
    return predict("pick", {"index": np.array(index, np.int64)}, **fields)


def picked(response: Any) -> list[float]:
    """Returns what the picker answered."""
    values: list[float] = from_tensor(response.outputs["value"]).tolist()
    return values


def steps(count: int, **fields: Any) -> PredictRequest:
    """Returns a request to the busy model."""
    return predict("busy", {"steps": np.array(count, np.int64)}, **fields)


def batching(rows: int, **delay: int) -> str:
    """Returns a configuration that has requests gathered."""
    lines = "".join(f"{key}: {value} " for key, value in delay.items())
    return f"max_batch_size: {rows}\ndynamic_batching {{ {lines}}}\n"


def send(running: Running, request: PredictRequest, **options: Any) -> Any:
    """Sends a request without waiting for its answer."""
    future: Any = running.inference.Predict
    return future.future(request, **{"timeout": PATIENCE, **options})


def connect(running: Running) -> grpc.Channel:
    """Returns a connection of its own."""
    return grpc.insecure_channel(running.address, [("grpc.use_local_subchannel_pool", 1)])


def stub_of(channel: grpc.Channel) -> Any:
    return InferenceServiceStub(channel)


def check_health(running: Running, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    status: int = stub.Check(request, timeout=PATIENCE).status
    return status


def get(running: Running, path: str) -> tuple[int, str]:
    """Asks the port of the metrics and probes."""
    try:
        with urllib.request.urlopen(running.metrics_url + path, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(running: Running) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields name, labels and value of every series."""
    status, text = get(running, "/metrics")
    assert status == 200
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def metric(running: Running, name: str, **labels: str) -> float:
    """Returns the sum of the series of a name that have the labels."""
    return sum(
        value
        for found, has, value in samples(running)
        if found == name and labels.items() <= has.items()
    )


def assert_idle(running: Running) -> None:
    """Waits for the last call to end; then nothing may be held, and the server is well."""
    admission = running.server._admission
    assert admission.wait_idle(PATIENCE)
    assert metric(running, "forwardpass_calls_in_flight") == 0
    assert metric(running, "forwardpass_request_bytes_in_flight") == 0
    assert metric(running, "forwardpass_queue_jobs") == 0
    assert get(running, "/livez")[0] == 200


def summaries(running: Running) -> dict[tuple[str, int], ModelSummary]:
    models = running.models.ListModels(ListModelsRequest()).models
    return {(one.model.name, one.model.version): one for one in models}


def together(count: int, work: Callable[[int], None]) -> None:
    """Does work on so many threads, and raises what the first of them raised."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[index]) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def resident() -> int:
    """Returns the bytes of memory that this process, client and server, has in use."""
    gc.collect()
    # Gives back what is free already, of which the C library keeps now more and now less.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


@contextmanager
def growing_at_most(bytes_: int) -> Iterator[None]:
    """Fails where at any moment inside so many bytes more are in use than before."""
    before = resident()
    # Linux then begins anew to note the most that was in use.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) << 10
    assert peak - before < bytes_


@contextmanager
def manage(running: Running) -> Iterator[Any]:
    """Gives the stub of management calls."""
    address = f"127.0.0.1:{running.server.management_port}"
    with grpc.insecure_channel(address) as channel:
        yield ModelServiceStub(channel)


def load(stub: Any, name: str, version: int) -> Any:
    reference = ModelReference(name=name, version=version)
    return stub.LoadModel(LoadModelRequest(model=reference), timeout=PATIENCE)


def unload(stub: Any, name: str, version: int) -> None:
    reference = ModelReference(name=name, version=version)
    stub.UnloadModel(UnloadModelRequest(model=reference), timeout=PATIENCE)
