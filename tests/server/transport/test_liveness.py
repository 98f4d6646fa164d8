"""/livez asks the threads, and does not say that all is well because it can be answered itself."""

import threading
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import get
from conftest import Running, StartServer
from tiny_models import Publisher, embedder

from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.transport import listener, stock
from forwardpass.server.transport.completion_queue import transport as completion_queue
from forwardpass.v1.inference_service_pb2 import EmbedRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

PATIENCE = 60
EMBED = EmbedRequest(
    model=ModelReference(name="emb"), inputs={"features": to_tensor(np.ones((1, 4), np.float32))}
)


def livez(running: Running) -> int:
    return get(running, "/livez")[0]


@pytest.mark.parametrize("transport", ["completion_queue"])
def test_t114_a_transport_that_hangs_is_not_alive_and_one_that_goes_on_is(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_queue, "HANG_SECONDS", 0.2)
    entered, may_end = threading.Event(), threading.Event()
    run = Session.run_inline

    def hang(self: Session, *arguments: Any) -> Any:
        entered.set()
        assert may_end.wait(PATIENCE)
        return run(self, *arguments)

    monkeypatch.setattr(Session, "run_inline", hang)
    repository("emb", embedder())
    running = start_server()
    # Idle for as long as one likes.
    assert {livez(running) for _ in range(5)} == {200}
    call: Any = running.inference.Embed.future(EMBED, timeout=PATIENCE)
    assert entered.wait(PATIENCE)
    while livez(running) == 200:
        threading.Event().wait(0.05)
    may_end.set()
    assert call.result().space_id
    # The answer may be here before its thread goes on.
    while livez(running) != 200:
        threading.Event().wait(0.05)


@pytest.mark.parametrize("transport", ["stock"])
def test_t114_a_transport_without_a_free_thread_is_not_alive_until_there_is_one(
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stock, "HANG_SECONDS", 0.2)
    # Two threads in all, for two calls, a stream and a watch.
    monkeypatch.setattr(stock, "_SPARE_THREADS", 2 - listener.CALLS_OF_CONNECTION - 4)
    may_end = threading.Event()
    entered = threading.Semaphore(0)
    run = Session.run

    def hang(self: Session, outputs: Any, inputs: Any, on_begin: Any = None) -> Any:
        if on_begin is not None:
            entered.release()
            assert may_end.wait(PATIENCE)
        return run(self, outputs, inputs, on_begin)

    monkeypatch.setattr(Session, "run", hang)
    repository("emb", embedder())
    running = start_server(max_in_flight=2, max_streams=1, max_watches=1)
    assert {livez(running) for _ in range(5)} == {200}
    calls: list[Any] = [running.inference.Embed.future(EMBED, timeout=PATIENCE) for _ in range(2)]
    assert entered.acquire(timeout=PATIENCE)
    while livez(running) == 200:
        threading.Event().wait(0.05)
    # Whoever comes now does not wait for one, in memory that nobody bounds.
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        running.inference.Embed(EMBED, timeout=PATIENCE)
    may_end.set()
    for call in calls:
        assert call.result().space_id
    while livez(running) != 200:
        threading.Event().wait(0.05)


def test_t114_a_server_whose_executor_has_died_is_not_alive(
    repository: Publisher,
    start_server: StartServer,
    no_inline_runs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died = threading.Event()

    def die(_: ThreadExecutor) -> bool:
        died.set()
        return False

    repository("emb", embedder())
    monkeypatch.setattr(ThreadExecutor, "_run_next", die)
    running = start_server()
    assert died.wait(PATIENCE)
    while livez(running) == 200:
        threading.Event().wait(0.01)
