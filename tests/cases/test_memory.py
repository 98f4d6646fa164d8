"""T57 to T59, small: what many calls and many loads leave behind."""

import threading
from pathlib import Path
from typing import Any

import grpc
from conftest import StartServer
from failures import failure_of
from tiny_models import Publisher, classifier, generator, picker

from forwardpass.v1.inference_service_pb2 import GenerateRequest, GenerateStreamRequest
from forwardpass.v1.model_service_pb2 import (
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason

from .harness import PATIENCE, assert_idle, connect, pick, picked, resident, stub_of, together


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_t57_calls_leave_no_memory_behind(repository: Publisher, start_server: StartServer) -> None:
    repository("pick", picker())
    running = start_server()

    def work(index: int) -> None:
        with connect(running) as channel:
            stub = stub_of(channel)
            for number in range(300):
                request = pick(*[number % 4] * 1_000)
                assert picked(stub.Predict(request, timeout=PATIENCE))[0] == number % 4

    together(4, work)
    before = resident()
    together(4, work)
    # 1,200 calls of 12 KB each: to keep all of their bytes would show.
    assert resident() - before < 10 << 20
    assert_idle(running)


def test_t58_streams_that_are_cancelled_leave_nothing_behind(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("gen", generator())
    running = start_server()
    request = GenerateStreamRequest(
        request=GenerateRequest(model=ModelReference(name="gen"), seed=1, count=1024)
    )

    def work(count: int) -> None:
        for _ in range(count):
            stub: Any = running.inference
            samples = stub.GenerateStream(request, timeout=PATIENCE)
            next(samples)
            samples.cancel()

    work(40)
    assert running.server._admission.wait_idle(PATIENCE)
    before = resident()
    work(120)
    assert_idle(running)
    assert resident() - before < 10 << 20


def test_t59_loads_and_failed_loads_leave_no_threads_and_no_files(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier(), 1)
    (repository("clf", classifier(), 2) / "model.onnx").write_bytes(b"")
    running = start_server(management_port=0)
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        manage: Any = ModelServiceStub(channel)

        def work(count: int) -> None:
            for _ in range(count):
                good = ModelReference(name="clf", version=1)
                manage.UnloadModel(UnloadModelRequest(model=good), timeout=PATIENCE)
                bad = LoadModelRequest(model=ModelReference(name="clf", version=2))
                assert failure_of(manage.LoadModel, bad).reason is Reason.MODEL_FAILED
                manage.LoadModel(LoadModelRequest(model=good), timeout=PATIENCE)

        def workers() -> list[str]:
            names = [thread.name for thread in threading.enumerate()]
            return sorted(name for name in names if name.startswith(("worker-", "load")))

        work(5)
        before, files, threads = resident(), descriptors(), workers()
        work(30)
        assert workers() == threads == ["worker-clf-1-0"]
        assert descriptors() <= files + 2
        assert resident() - before < 20 << 20
    assert_idle(running)
