"""Real proxies, as deploy/proxies configures them, before two real servers."""

import http.client
import json
import queue
import re
import signal
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Self

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from open_inference.calls import FEATURES, Calls, infer_request
from server.test_process import ServerProcess, serving, steps, wait_until_in_flight
from tiny_models import (
    CLASSIFIER_WEIGHTS,
    EMBEDDER_WEIGHTS,
    Publisher,
    busy,
    classifier,
    echo,
    embedder,
    softmax,
    writer,
)

from forwardpass.client import Client, InvalidInput, Overloaded, Tls
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictResponse
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import (
    DETAILS_KEY,
    PUSHBACK_KEY,
    Array,
    Failure,
    Reason,
    from_tensor,
    to_tensor,
)

from .conftest import FindTool
from .proxies import PATIENCE, Envoy, Nginx, Proxy, wait_for

KINDS: dict[str, type[Proxy]] = {"envoy": Envoy, "nginx": Nginx}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    publish = Publisher(tmp_path_factory.mktemp("models"))
    publish("clf", classifier())
    publish("emb", embedder())
    publish("poet", writer())
    publish("busy", busy())
    publish("bytes", echo(TensorProto.UINT8, ["n"]))
    return publish.root


@contextmanager
def ready(models: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server that has loaded its models."""
    with serving(models, "--no-sandbox", *flags) as server:
        server.wait_for("ready")
        yield server


PutBefore = Callable[[str, Sequence[ServerProcess]], Any]


@pytest.fixture(scope="module")
def put_before(
    find_tool: FindTool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PutBefore]:
    """Starts a proxy of a kind before servers."""
    with ExitStack() as stack:

        def start(kind: str, servers: Sequence[ServerProcess]) -> Proxy:
            folder = tmp_path_factory.mktemp(kind)
            proxy = KINDS[kind](find_tool(kind), folder, [each.address for each in servers])
            stack.callback(proxy.stop)
            return proxy

        yield start


@pytest.fixture(scope="module")
def servers(models: Path) -> Iterator[Sequence[ServerProcess]]:
    with ready(models) as first, ready(models) as second:
        yield first, second


@pytest.fixture(scope="module", params=KINDS)
def proxy(
    request: pytest.FixtureRequest,
    put_before: PutBefore,
    servers: Sequence[ServerProcess],
) -> Proxy:
    started: Proxy = put_before(request.param, servers)
    return started


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    with Client(proxy.address, tls=Tls(proxy.ca)) as client:
        yield client


def test_every_kind_of_call_comes_through(proxy: Proxy, client: Client) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    probabilities = client.predict("clf", {"image": images}).outputs["probabilities"]
    expected = softmax(images.reshape(3, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    vectors = client.embed("emb", {"features": FEATURES}).vectors
    np.testing.assert_allclose(vectors, FEATURES @ EMBEDDER_WEIGHTS, rtol=1e-5)
    told: Any = {"prompt": "ab", "length": 12, "seed": 1}
    parts = list(client.generate_stream("poet", **told))
    assert len(parts) > 1
    whole = "".join(part.texts[0] for _, part in parts)
    assert whole == client.generate("poet", **told).texts[0]
    with proxy.connect() as channel:
        answer = Calls(channel).infer(infer_request("emb", {"features": FEATURES}))
    np.testing.assert_allclose(
        np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 3), vectors
    )


def test_a_message_of_megabytes_comes_through_both_ways(client: Client) -> None:
    sent = np.random.default_rng(1).integers(0, 256, 8 << 20, np.uint8)
    assert (client.predict("bytes", {"x": sent}).outputs["y"] == sent).all()


def predict(features: Array) -> PredictRequest:
    """Returns a request to the embedder."""
    return PredictRequest(
        model=ModelReference(name="emb"), inputs={"features": to_tensor(features)}
    )


def failure(channel: grpc.Channel, request: PredictRequest) -> tuple[Any, str, dict[str, Any]]:
    """Returns status, message and trailing metadata of a call that fails."""
    stub: Any = InferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=PATIENCE)
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata())


def test_what_an_error_says_comes_through_unharmed(
    proxy: Proxy, servers: Sequence[ServerProcess]
) -> None:
    wrong = predict(np.zeros((2, 5), np.float32))
    with proxy.connect() as proxied, grpc.insecure_channel(servers[0].address) as direct:
        code, message, trailers = failure(proxied, wrong)
        own_code, own_message, own_trailers = failure(direct, wrong)
    assert (code, message) == (own_code, own_message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    told = Failure.from_details(trailers[DETAILS_KEY])
    # Two servers may write the entries of a map in another order.
    assert told == Failure.from_details(own_trailers[DETAILS_KEY])
    assert told is not None
    assert told.reason is Reason.INVALID_INPUT


def test_the_client_reads_an_error_as_it_does_from_a_server(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.predict("emb", {"features": np.zeros((2, 5), np.float32)})
    assert caught.value.field == "inputs.'features'.shape"


@pytest.fixture(scope="module")
def full(models: Path) -> Iterator[ServerProcess]:
    """A server that has room for one call, and has it."""
    with (
        ready(models, "--max-in-flight", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = InferenceServiceStub(channel)
        call = stub.Predict.future(steps(100_000_000), timeout=10 * PATIENCE)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        yield server
        call.cancel()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pushback_comes_through(kind: str, put_before: PutBefore, full: ServerProcess) -> None:
    proxy = put_before(kind, [full])
    with proxy.connect() as channel:
        code, _, trailers = failure(channel, predict(FEATURES))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailers[PUSHBACK_KEY]) > 0
    assert Reason.QUEUE_FULL.encode() in trailers[DETAILS_KEY]
    with Client(proxy.address, tls=Tls(proxy.ca)) as client, pytest.raises(Overloaded):
        client.predict("emb", {"features": FEATURES})


class Load:
    """Callers that heed no pushback, each with a call after the other.

    Attributes:
        answered: How many calls were answered rightly.
        failed: What the others said.
    """

    CALLERS = 2

    def __init__(self, proxy: Proxy) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._moved = threading.Condition()
        self._proxy = proxy
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(self.CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait_answered(self, count: int = 200) -> None:
        """Returns after so many more answers."""
        with self._moved:
            wanted = self.answered + count
            assert self._moved.wait_for(lambda: self.answered >= wanted, PATIENCE), self.failed

    def _call(self) -> None:
        expected = FEATURES @ EMBEDDER_WEIGHTS
        with self._proxy.connect() as channel:
            stub: Any = InferenceServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(predict(FEATURES), timeout=PATIENCE)
                except grpc.RpcError as error:
                    self.failed.append(str(error))
                else:
                    assert np.allclose(from_tensor(answer.outputs["embedding"]), expected)
                    with self._moved:
                        self.answered += 1
                        self._moved.notify_all()


def test_no_call_fails_while_envoy_takes_out_a_server_that_drains(
    put_before: PutBefore, models: Path, servers: Sequence[ServerProcess]
) -> None:
    staying = servers[0]
    with ready(models, "--drain-delay-seconds", "4") as leaving:
        envoy: Envoy = put_before("envoy", (leaving, staying))
        wait_for(lambda: len(envoy.healthy()) == 2, envoy.process)
        with Load(envoy) as load:
            load.wait_answered()
            leaving.signal(signal.SIGTERM)
            wait_for(lambda: envoy.healthy() == {staying.address}, envoy.process)
            # Until then it has taken calls, as its drain_delay_seconds say.
            assert leaving.process.poll() is None
            assert leaving.finish() == 0
            load.wait_answered()
        assert load.failed == []


def test_no_call_fails_as_a_server_is_taken_from_nginx_list(
    put_before: PutBefore, models: Path, servers: Sequence[ServerProcess]
) -> None:
    staying = servers[0]
    with ready(models) as leaving:
        nginx: Nginx = put_before("nginx", (leaving, staying))
        with Load(nginx) as load:
            load.wait_answered()
            nginx.serve(staying.address)
            leaving.signal(signal.SIGTERM)
            assert leaving.finish() == 0
            load.wait_answered()
        assert load.failed == []


# How many connections calls come over until each has been replaced some times: one thread of Envoy
# has one, nginx one for each call at a time, and closes those on which a server speaks unasked, as
# about its windows.
CONNECTIONS = {"envoy": 5, "nginx": 30}


@pytest.fixture(scope="module")
def aging(models: Path) -> Iterator[tuple[ServerProcess, "queue.SimpleQueue[str]"]]:
    """A server whose connections last half a second, and who is at their other ends, by call."""
    peers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read(log: IO[str]) -> None:
        for line in map(json.loads, log):
            if line["event"] == "call" and line["method"].endswith("/Predict"):
                peers.put(line["peer"])

    with ready(models, "--connection-seconds", "0.5", "--log-level", "debug") as server:
        assert server.process.stderr is not None
        reader = threading.Thread(target=read, args=[server.process.stderr])
        reader.start()
        yield server, peers
        server.process.kill()
        reader.join()


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_fails_as_connections_come_of_age(
    kind: str,
    put_before: PutBefore,
    aging: tuple[ServerProcess, "queue.SimpleQueue[str]"],
) -> None:
    server, peers = aging
    seen: set[str] = set()
    with Load(put_before(kind, [server])) as load:
        while len(seen) < CONNECTIONS[kind]:
            seen.add(peers.get(timeout=PATIENCE))
    assert load.failed == []


def frame(message: bytes, flags: int = 0) -> bytes:
    """Returns a message as gRPC-Web sends it: flags and length before it."""
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields flags and content of each frame."""
    while body:
        size = int.from_bytes(body[1:5], "big")
        yield body[0], body[5 : 5 + size]
        body = body[5 + size :]


def test_envoy_takes_grpc_web(put_before: PutBefore, servers: Sequence[ServerProcess]) -> None:
    envoy: Envoy = put_before("envoy", servers)
    trusting = ssl.create_default_context(cafile=str(envoy.ca))
    connection = http.client.HTTPSConnection(envoy.address, timeout=PATIENCE, context=trusting)
    answers = []
    for features in (FEATURES, FEATURES[:, :3]):
        connection.request(
            "POST",
            "/forwardpass.v1.InferenceService/Predict",
            frame(predict(features).SerializeToString()),
            {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        )
        response = connection.getresponse()
        assert (response.status, response.headers["content-type"]) == (
            200,
            "application/grpc-web+proto",
        )
        answers.append((response, list(frames(response.read()))))
    connection.close()
    (_, [(flags, message), (end, trailers)]), (refused, rest) = answers
    assert (flags, end) == (0, 0x80)
    outputs = PredictResponse.FromString(message).outputs
    assert np.allclose(from_tensor(outputs["embedding"]), FEATURES @ EMBEDDER_WEIGHTS)
    assert b"grpc-status:0\r\n" in trailers
    # Of an answer without a message the trailers are headers.
    assert (refused.headers["grpc-status"], rest) == ("3", [])
    assert refused.headers[DETAILS_KEY]


def test_nginx_calls_another_server_where_nobody_listens(
    put_before: PutBefore, servers: Sequence[ServerProcess]
) -> None:
    nginx: Nginx = put_before("nginx", servers)
    with socket.socket() as deaf, Client(nginx.address, tls=Tls(nginx.ca)) as client:
        deaf.bind(("127.0.0.1", 0))
        nginx.serve(f"127.0.0.1:{deaf.getsockname()[1]}", servers[0].address)
        for _ in range(10):
            client.embed("emb", {"features": FEATURES})


def started(server: ServerProcess, method: str) -> int:
    """Returns how many calls of a method a server has taken."""
    url = f"http://{server.lines[0]['metrics']}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        page: str = response.read().decode()
    found = re.search(
        rf'^grpc_server_started_total{{.*"{method}".*}} ([0-9.]+)', page, re.MULTILINE
    )
    return int(float(found[1])) if found else 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_ends_its_server_does_not_reach_another(
    kind: str, put_before: PutBefore, models: Path
) -> None:
    with ready(models) as first, ready(models) as second:
        both = (first, second)
        proxy = put_before(kind, both)
        with proxy.connect() as channel:
            stub: Any = InferenceServiceStub(channel)
            # It runs for as long as its server does.
            call = stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
            wait_for(lambda: any(started(each, "Predict") for each in both), proxy.process)
            ending, other = sorted(both, key=lambda each: -started(each, "Predict"))
            ending.signal(signal.SIGKILL)
            assert call.exception(PATIENCE).code() is grpc.StatusCode.UNAVAILABLE
            assert started(other, "Predict") == 0
            # Until its health is looked at, a proxy takes the one that has gone for a server.
            for _ in range(300):
                stub.Predict(predict(FEATURES), timeout=PATIENCE)
            assert other.process.poll() is None
