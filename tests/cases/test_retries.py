"""T100, T117: calls that are made again, by a caller or by the product's own client."""

import signal
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from conftest import Running, StartServer
from prometheus_client.parser import text_string_to_metric_families
from server.test_process import ServerProcess, serving
from tiny_models import Publisher, busy, classifier, generator, picker

from forwardpass.client import Client, InvalidInput, Overloaded, Unavailable
from forwardpass.server.errors import CallError
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call
from forwardpass.v1.inference_service_pb2 import GenerateRequest
from forwardpass.v1.model_service_pb2 import ModelReference

from .harness import PATIENCE, Gate, assert_idle, metric, pick, predict, send

# What the client does at most: the first try and three more.
TRIES = 4


def started(running: Running) -> float:
    method = {"grpc_service": "forwardpass.v1.InferenceService", "grpc_method": "Predict"}
    return metric(running, "grpc_server_started_total", **method)


def test_t100_the_same_call_made_again_is_answered_with_the_same_bytes(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("gen", generator())
    repository("clf", classifier())
    running = start_server()
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    asked = predict("clf", {"image": images}, top_k=3)
    drawn = GenerateRequest(model=ModelReference(name="gen"), seed=11, count=5, png=True)
    answer, samples = running.inference.Predict(asked), running.inference.Generate(drawn)
    for _ in range(20):
        assert running.inference.Predict(asked).SerializeToString(deterministic=True) == (
            answer.SerializeToString(deterministic=True)
        )
        assert running.inference.Generate(drawn).SerializeToString(deterministic=True) == (
            samples.SerializeToString(deterministic=True)
        )


def test_t100_the_client_comes_again_when_it_is_told_to(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository("pick", picker())
    refused = threading.Semaphore(0)
    enter = Admission.enter

    def enter_and_tell(admission: Admission, call: Call, size: int) -> None:
        try:
            enter(admission, call, size)
        except CallError:
            refused.release()
            raise

    # Before the server starts: its methods keep what lets their calls in.
    monkeypatch.setattr(Admission, "enter", enter_and_tell)
    running = start_server(max_in_flight=1)
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    answers: list[Any] = []

    def ask() -> None:
        with Client(running.address, timeout=PATIENCE) as client:
            answers.append(client.predict("pick", {"index": np.array([3])}))

    thread = threading.Thread(target=ask)
    thread.start()
    # Once it has been refused, there is room for it.
    assert refused.acquire(timeout=PATIENCE)
    gate.open()
    first.result()
    thread.join(PATIENCE)
    assert answers[0].outputs["value"].tolist() == [3]
    assert len(gate.runs) == 2
    assert_idle(running)


def test_t100_the_client_gives_up_after_some_tries(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_in_flight=1)
    gate.shut()
    first = send(running, pick(0))
    gate.wait_started()
    with (
        Client(running.address, timeout=PATIENCE) as client,
        pytest.raises(Overloaded),
    ):
        client.predict("pick", {"index": np.array([3])})
    assert started(running) == 1 + TRIES
    gate.open()
    first.result()
    assert len(gate.runs) == 1


def test_t100_the_client_does_not_repeat_what_is_wrong(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with Client(running.address, timeout=PATIENCE) as client:
        with pytest.raises(InvalidInput):
            client.predict("pick", {"index": np.array([99])})
        with pytest.raises(InvalidInput):
            client.predict("pick", {"indexx": np.array([1], np.float32)})
    assert started(running) == 2
    assert len(gate.runs) == 1


def calls_of(server: ServerProcess) -> float:
    """Returns how many Predict calls have reached a server."""
    with urllib.request.urlopen(f"http://{server.lines[0]['metrics']}/metrics", timeout=30) as page:
        families = text_string_to_metric_families(page.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "grpc_server_started_total" and sample.labels["grpc_method"] == "Predict"
    )


def flags_of(transport: str) -> tuple[str, ...]:
    return "--transport", transport, "--threads", "1"


def two_servers(
    stack: ExitStack, repository: Publisher, transport: str
) -> tuple[list[ServerProcess], Client]:
    """Starts two servers, and a client that calls them in turn; the stack stops them."""
    servers = [
        stack.enter_context(serving(repository.root, *flags_of(transport))) for _ in range(2)
    ]
    for server in servers:
        server.wait_for("ready")
    target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return servers, stack.enter_context(Client(target, timeout=PATIENCE))


def test_t117_a_call_that_ends_a_server_is_not_sent_to_the_next(
    repository: Publisher, transport: str
) -> None:
    repository("pick", picker())
    repository("busy", busy())
    with ExitStack() as stack:
        servers, client = two_servers(stack, repository, transport)
        # The second connection may take a moment more than the first.
        while not all(calls_of(server) for server in servers):
            client.predict("pick", {"index": np.array([3])})
        before = [calls_of(server) for server in servers]
        caller = stack.enter_context(ThreadPoolExecutor(1))
        asked = caller.submit(client.predict, "busy", {"steps": np.array(100_000_000)})
        while (now := [calls_of(server) for server in servers]) == before:
            assert not asked.done()
        hit = int(now[1] > before[1])
        servers[hit].process.kill()
        with pytest.raises(Unavailable, match="broke before an answer"):
            asked.result(PATIENCE)
        spared = servers[1 - hit]
        assert calls_of(spared) == before[1 - hit]
        for index in range(4):
            answer = client.predict("pick", {"index": np.array([index])})
            assert answer.outputs["value"].tolist() == [index]
        assert spared.process.poll() is None


def test_t100_a_rolling_restart_loses_no_call(repository: Publisher, transport: str) -> None:
    repository("pick", picker())
    with ExitStack() as stack:
        servers, client = two_servers(stack, repository, transport)
        restarted = threading.Event()

        def ask() -> int:
            count = 0
            while not restarted.is_set():
                answer = client.predict("pick", {"index": np.array([count % 4])})
                assert answer.outputs["value"].tolist() == [count % 4]
                count += 1
            return count

        # Several, so that one may well be sent to the same server again and again.
        callers = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(restarted.set)
        asked = [callers.submit(ask) for _ in range(4)]

        def wait_until_called(server: ServerProcess) -> None:
            while not calls_of(server):
                for done in asked:
                    assert not done.done() or done.result()

        for place, server in enumerate(servers):
            wait_until_called(server)
            server.signal(signal.SIGTERM)
            assert server.finish() == 0
            again = serving(repository.root, *flags_of(transport), "--port", str(server.port))
            servers[place] = stack.enter_context(again)
            servers[place].wait_for("ready")
            wait_until_called(servers[place])
        restarted.set()
        assert all(done.result(PATIENCE) for done in asked)
