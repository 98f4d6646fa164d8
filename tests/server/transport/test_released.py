"""A call that has ended is freed by counting references: nothing of it waits for the collector.

What gRPC core has of a call (its stream among it) goes with our last reference to it. With calls
that wait for the garbage collector, a connection runs out of streams.
"""

import gc
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import CoroutineType, FrameType
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from open_inference.calls import Calls, emb, infer_request
from tiny_models import Publisher, classifier, embedder, generator, writer

from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.job import Job
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.task import Future
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    GenerateRequest,
    GenerateStreamRequest,
    PredictRequest,
    PredictStreamRequest,
)
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import (
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelReference,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import to_tensor

PATIENCE = 60
# Calls of each kind and end; so many at a time. `make faults` makes as many as would use up a
# connection twice if they were not released.
CALLS, AT_A_TIME = 16, 4
MANY_CALLS, MANY_AT_A_TIME = 1300, 100
CLASSIFIER, EMBEDDER, GENERATOR, WRITER = (
    ModelReference(name=name) for name in ("clf", "emb", "gen", "wr")
)
FEATURES = to_tensor(np.ones((1, 4), np.float32))
TORN = to_tensor(np.ones((1, 3), np.float32))
PICTURE = PredictRequest(
    model=CLASSIFIER, inputs={"image": to_tensor(np.zeros((1, 4, 4, 1), np.uint8))}
)


class Gate:
    """Holds runs of the models for calls while it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        run = Session.run

        def held(session: Session, outputs: Any, inputs: Any, on_begin: Any = None) -> Any:
            if on_begin is not None:
                assert self.open.wait(PATIENCE)
            return run(session, outputs, inputs, on_begin)

        # Before the server starts: its executors keep the method that they were made with.
        monkeypatch.setattr(Session, "run", held)


class Relay:
    """A connection that can be lost: it passes bytes on, until it is cut.

    Args:
        address: "host:port" of the server.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Loses every connection, without a word to either side's gRPC."""
        # A socket that is shut down wakes up who waits for it.
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._ends += (caller, server)
                for pair in ((caller, server), (server, caller)):
                    thread = threading.Thread(target=self._copy, args=pair)
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Begun:
    """A call under way.

    Attributes:
        call: As grpc has it.
        is_stream: Whether it has many answers.
    """

    call: Any
    is_stream: bool = False

    def end(self) -> None:
        """Waits for its end, whatever it is."""
        with suppress(grpc.RpcError, grpc.FutureCancelledError):
            if self.is_stream:
                for _ in self.call:
                    pass
            else:
                self.call.result()


Begin = Callable[[grpc.Channel, float], Begun]


@dataclass(frozen=True)
class Kind:
    """A kind of call.

    Attributes:
        begin: Begins a call on a channel, with a timeout; a stream ends by itself.
        wrong: Begins one that is refused for what it asks for; None where there is no such.
        waits: Whether it waits for a model, so that it can be met while it is under way.
    """

    begin: Begin
    wrong: Begin | None = None
    waits: bool = True


def unary(stub: type, method: str, request: Any) -> Begin:
    return lambda channel, timeout: Begun(
        getattr(stub(channel), method).future(request, timeout=timeout)
    )


def many(stub: type, method: str, request: Any) -> Begin:
    return lambda channel, timeout: Begun(
        getattr(stub(channel), method)(request, timeout=timeout), is_stream=True
    )


def stream(stub: type, method: str, *requests: Any) -> Begin:
    return lambda channel, timeout: Begun(
        getattr(stub(channel), method)(iter(requests), timeout=timeout), is_stream=True
    )


def raw(path: str, message: bytes) -> Begin:
    def begin(channel: grpc.Channel, timeout: float) -> Begun:
        call: Any = channel.unary_unary(path)
        return Begun(call.future(message, timeout=timeout))

    return begin


def infer(request: Any) -> Begin:
    return raw("/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())


def infer_stream(*requests: Any) -> Begin:
    messages = [request.SerializeToString() for request in requests]
    return lambda channel, timeout: Begun(
        Calls(channel).stream(messages, timeout=timeout), is_stream=True
    )


I, M, H, R = (  # noqa: E741  # the services
    InferenceServiceStub,
    ModelServiceStub,
    health_pb2_grpc.HealthStub,
    reflection_pb2_grpc.ServerReflectionStub,
)
EMBED = EmbedRequest(model=EMBEDDER, inputs={"features": FEATURES})
EMBED_TORN = EmbedRequest(model=EMBEDDER, inputs={"features": TORN})
GENERATE = GenerateRequest(model=GENERATOR, count=40)
WRITE = GenerateRequest(model=WRITER, count=2, length=3)
TOO_MANY = GenerateRequest(model=GENERATOR, count=5000)
TOO_LONG = GenerateRequest(model=WRITER, length=1 << 20)
NOBODY = ModelReference(name="nobody")
KINDS = {
    "Predict": Kind(
        unary(I, "Predict", PICTURE), unary(I, "Predict", PredictRequest(model=NOBODY))
    ),
    "Predict, of a known form": Kind(
        unary(I, "Predict", PredictRequest(model=EMBEDDER, inputs={"features": FEATURES})),
        unary(I, "Predict", PredictRequest(model=EMBEDDER, inputs={"features": TORN})),
    ),
    "Embed": Kind(
        unary(I, "Embed", EmbedRequest(model=EMBEDDER, inputs={"features": FEATURES}, timing=True)),
        unary(I, "Embed", EMBED_TORN),
    ),
    "Embed, of a known form": Kind(unary(I, "Embed", EMBED)),
    "Generate samples": Kind(unary(I, "Generate", GENERATE), unary(I, "Generate", TOO_MANY)),
    "Generate texts": Kind(unary(I, "Generate", WRITE), unary(I, "Generate", TOO_LONG)),
    "PredictStream": Kind(
        stream(I, "PredictStream", *[PredictStreamRequest(request=PICTURE)] * 20),
        stream(I, "PredictStream", PredictStreamRequest(request=PredictRequest(model=NOBODY))),
    ),
    "EmbedStream": Kind(
        stream(I, "EmbedStream", *[EmbedStreamRequest(request=EMBED)] * 20),
        stream(I, "EmbedStream", EmbedStreamRequest(request=EMBED_TORN)),
    ),
    "GenerateStream of samples": Kind(
        many(I, "GenerateStream", GenerateStreamRequest(request=GENERATE)),
        many(I, "GenerateStream", GenerateStreamRequest(request=TOO_MANY)),
    ),
    "GenerateStream of texts": Kind(
        many(I, "GenerateStream", GenerateStreamRequest(request=WRITE)),
        many(I, "GenerateStream", GenerateStreamRequest(request=TOO_LONG)),
    ),
    "ModelInfer": Kind(
        infer(infer_request("clf", {"image": np.zeros((1, 4, 4, 1), np.uint8)})),
        infer(infer_request("emb", {"features": np.ones((1, 3), np.float32)})),
    ),
    "ModelInfer, of a known form": Kind(infer(emb())),
    "ModelStreamInfer": Kind(
        infer_stream(*[emb()] * 20),
        infer_stream(infer_request("emb", {"features": np.ones((1, 3), np.float32)})),
    ),
    "ListModels": Kind(unary(M, "ListModels", ListModelsRequest()), waits=False),
    "GetModel": Kind(
        unary(M, "GetModel", GetModelRequest(model=EMBEDDER)),
        unary(M, "GetModel", GetModelRequest(model=NOBODY)),
        waits=False,
    ),
    "Check": Kind(
        unary(H, "Check", health_pb2.HealthCheckRequest()),
        unary(H, "Check", health_pb2.HealthCheckRequest(service="nobody")),
        waits=False,
    ),
    "ServerReflectionInfo": Kind(
        stream(R, "ServerReflectionInfo", reflection_pb2.ServerReflectionRequest(list_services="")),
        waits=False,
    ),
    "an unknown method": Kind(raw("/no/Method", b""), waits=False),
}


def live() -> Counter[str]:
    """What there is of calls in this process: ours, not gRPC's."""
    running = set(_running_frames())
    found: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        if issubclass(kind, Call | Job | Future):
            found[kind.__name__] += 1
        elif kind is CoroutineType and "forwardpass/server" in one.cr_code.co_filename:
            found[f"coroutine {one.cr_code.co_name}"] += 1
        elif (
            kind is FrameType
            and "forwardpass/server" in one.f_code.co_filename
            and id(one) not in running
        ):
            found[f"frame {one.f_code.co_name}"] += 1
    return found


def _running_frames() -> Iterator[int]:
    for frame in sys._current_frames().values():
        one: FrameType | None = frame
        while one is not None:
            yield id(one)
            one = one.f_back


@dataclass(frozen=True)
class Scale:
    """How many calls there are of each kind and end, and how many of them at a time."""

    calls: int
    at_a_time: int

    def by_turns(self, begin: Callable[[], Begun], then: Callable[[list[Begun]], None]) -> None:
        """Makes the calls, some at a time, and waits for their ends."""
        for _ in range(self.calls // self.at_a_time):
            calls = [begin() for _ in range(self.at_a_time)]
            then(calls)
            for call in calls:
                call.end()


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> Scale:
    if pytestconfig.getoption("--fault-seconds"):
        return Scale(MANY_CALLS, MANY_AT_A_TIME)
    return Scale(CALLS, AT_A_TIME)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def running(repository: Publisher, gate: Gate, start_server: StartServer, scale: Scale) -> Running:
    repository("clf", classifier())
    repository("emb", embedder())
    repository("gen", generator())
    repository("wr", writer())
    return start_server(reflection=True, max_queued=scale.at_a_time * 8, management_port=0)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    # Late in a long session the heap is large, and each look would go through all of it.
    gc.freeze()
    yield
    gc.unfreeze()
    gc.enable()


def settled(running: Running, expected: Counter[str]) -> Counter[str]:
    """What there is, once it is what is expected; the last look where it does not become that."""
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    until = time.monotonic() + 20
    while (found := live()) != expected and time.monotonic() < until:
        # A call and its answer are time for the server to end others.
        health.Check(health_pb2.HealthCheckRequest())
    return found


def wait_under_way(running: Running, count: int) -> None:
    """Waits until so many calls that run models have been admitted."""
    until = time.monotonic() + PATIENCE
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    while running.server._admission.calls < count:
        assert time.monotonic() < until
        health.Check(health_pb2.HealthCheckRequest())


def calls_left(running: Running, most: int) -> int:
    """Returns how many calls there are, once they are no more than `most` or stay more."""
    until = time.monotonic() + 20
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    while (left := _calls(live())) > most and time.monotonic() < until:
        health.Check(health_pb2.HealthCheckRequest())
    return left


def _calls(found: Counter[str]) -> int:
    return sum(count for name, count in found.items() if name in ("QueueCall", "StockCall"))


def cancel(calls: list[Begun]) -> None:
    for call in calls:
        call.call.cancel()


@pytest.mark.lasts(12, 0)
@pytest.mark.usefixtures("no_inline_runs", "no_collector")
@pytest.mark.parametrize("name", KINDS)
def test_t101_calls_leave_nothing_however_they_end(
    running: Running, gate: Gate, scale: Scale, name: str
) -> None:
    kind, channel = KINDS[name], running.channel
    # Whatever is made once, such as a template, is there afterwards.
    kind.begin(channel, PATIENCE).end()
    kind.begin(channel, PATIENCE).end()
    expected = settled(running, Counter())
    left = {}

    def check(end: str) -> None:
        gate.open.set()
        assert running.server._admission.wait_idle(PATIENCE)
        left[end] = settled(running, expected) - expected

    scale.by_turns(lambda: kind.begin(channel, PATIENCE), lambda _: None)
    check("answered")
    if kind.wrong is not None:
        wrong = kind.wrong
        scale.by_turns(lambda: wrong(channel, PATIENCE), lambda _: None)
        check("failed")
    if kind.waits:
        gate.open.clear()
        scale.by_turns(lambda: kind.begin(channel, 0.05), lambda _: None)
        check("expired")
        gate.open.clear()

        def cancel_under_way(calls: list[Begun]) -> None:
            wait_under_way(running, scale.at_a_time)
            cancel(calls)
            # Also those that waited for their turn, behind a run that goes on.
            assert calls_left(running, scale.at_a_time) <= scale.at_a_time

        scale.by_turns(lambda: kind.begin(channel, PATIENCE), cancel_under_way)
        check("cancelled")
        with lost(running) as (other, cut):
            gate.open.clear()
            calls = [kind.begin(other, PATIENCE) for _ in range(scale.at_a_time)]
            wait_under_way(running, scale.at_a_time)
            cut()
            for call in calls:
                call.end()
        check("connection lost")
    else:
        scale.by_turns(lambda: kind.begin(channel, 1e-4), lambda _: None)
        check("expired")
        scale.by_turns(lambda: kind.begin(channel, PATIENCE), cancel)
        check("cancelled")
    # On the same connection, which has had as many as could be open at a time.
    for _ in range(scale.calls // 5):
        assert running.inference.Predict(PICTURE, timeout=PATIENCE).outputs
    running.server._admission.close()
    scale.by_turns(lambda: kind.begin(channel, PATIENCE), lambda _: None)
    check("refused")
    assert {end: found for end, found in left.items() if found} == {}


class lost:  # noqa: N801  # a context manager
    """A channel over a connection of its own, and what loses it."""

    def __init__(self, running: Running) -> None:
        self._relay = Relay(running.address)
        self._stack = ExitStack()

    def __enter__(self) -> tuple[grpc.Channel, Callable[[], None]]:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = self._stack.enter_context(grpc.insecure_channel(self._relay.address, options))
        return channel, self._relay.cut

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.mark.lasts(12, 0)
@pytest.mark.usefixtures("no_collector")
def test_t101_watches_leave_nothing(running: Running, scale: Scale) -> None:
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    expected = settled(running, Counter())

    def watch(stub: Any) -> Begun:
        call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(call).status == health_pb2.HealthCheckResponse.SERVING
        return Begun(call, is_stream=True)

    scale.by_turns(lambda: watch(health), cancel)
    assert settled(running, expected) == expected
    with lost(running) as (channel, cut):
        calls = [watch(health_pb2_grpc.HealthStub(channel)) for _ in range(scale.at_a_time)]
        cut()
        for call in calls:
            call.end()
    assert settled(running, expected) == expected


@pytest.mark.lasts(12, 0)
@pytest.mark.usefixtures("no_collector")
def test_t101_management_leaves_nothing(running: Running, scale: Scale) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        models: Any = ModelServiceStub(channel)
        models.LoadModel(LoadModelRequest(model=EMBEDDER), timeout=PATIENCE)
        expected = settled(running, Counter())
        for model in (EMBEDDER, NOBODY):
            request = LoadModelRequest(model=model)
            scale.by_turns(
                lambda: Begun(models.LoadModel.future(request, timeout=PATIENCE)),  # noqa: B023
                lambda _: None,
            )
        assert settled(running, expected) == expected
