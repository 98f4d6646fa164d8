"""The server as a process: start, signals, drain, exit codes, what it imports."""

import ctypes
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto
from tiny_models import Publisher, busy, classifier, echo, endless

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_LOADING,
    GetModelRequest,
    ModelReference,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import from_tensor, to_tensor


class ServerProcess:
    """A `forwardpass-serve` whose log lines can be waited for.

    Args:
        repository: What it serves.
        flags: What it is told beside.
        wrapper: The command that starts it; none for this process itself.
    """

    def __init__(self, repository: Path, *flags: str, wrapper: Sequence[str] = ()) -> None:
        code = "from forwardpass.server.cli import main; main()"
        self.process = subprocess.Popen(
            [
                *(*wrapper, sys.executable, "-c", code, str(repository)),
                *("--log-format", "json"),
                *("--port", "0", "--metrics-port", "0", *flags),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self.address: str = self.wait_for("listening")["address"]
        self.pid = _only_child(self.process.pid) if wrapper else self.process.pid

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":")[-1])

    def signal(self, number: int) -> None:
        """Sends a signal to the server, not to what started it."""
        os.kill(self.pid, number)

    def wait_for(self, event: str, worker: int | None = None) -> dict[str, Any]:
        """Returns the next line of that event: of the process itself, or of one of its workers."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if line["event"] == event and line.get("worker") == worker:
                return line
        raise AssertionError(f"ended without {event!r}: {self.lines}")

    def finish(self) -> int:
        """Reads the rest of the log and returns the exit code."""
        assert self.process.stderr is not None
        self.lines += [json.loads(text) for text in self.process.stderr]
        return self.process.wait(60)


def _only_child(parent: int) -> int:
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return int(child)


@contextmanager
def serving(repository: Path, *flags: str, wrapper: Sequence[str] = ()) -> Iterator[ServerProcess]:
    server = ServerProcess(repository, *flags, wrapper=wrapper)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stderr is not None
        server.process.stderr.close()


def steps(count: int) -> PredictRequest:
    return PredictRequest(
        model=ModelReference(name="busy"), inputs={"steps": to_tensor(np.int64(count))}
    )


def test_sigterm_when_idle_exits_with_0(repository: Publisher) -> None:
    repository("clf", classifier())
    with serving(repository.root) as server:
        assert server.wait_for("ready")["models"] == {"clf": 1}
        server.process.send_signal(signal.SIGTERM)
        assert server.finish() == 0
    assert [line["event"] for line in server.lines[-3:]] == [
        "draining",
        "model_unloaded",
        "stopped",
    ]


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_sigterm_is_heard_whichever_thread_it_comes_to(
    repository: Publisher, flags: Sequence[str]
) -> None:
    """The kernel may choose any. One that comes as the main thread goes to wait is alike."""
    repository("clf", classifier())
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        other = max(int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir())
        assert other != server.pid
        tgkill = {"x86_64": 234, "aarch64": 131}[platform.machine()]
        assert ctypes.CDLL(None).syscall(tgkill, server.pid, other, signal.SIGTERM) == 0
        assert server.finish() == 0


def test_sigterm_under_load_loses_no_accepted_request(repository: Publisher) -> None:
    """Every call either gets the right answer or is refused as never accepted."""
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    outcomes: list[str] = []
    enough = threading.Semaphore(0)

    def send(index: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = InferenceServiceStub(channel)
            for number in range(100_000):
                values = np.array([index, number], np.float32)
                request = PredictRequest(
                    model=ModelReference(name="real"), inputs={"x": to_tensor(values)}
                )
                try:
                    response = stub.Predict(request, timeout=60)
                except grpc.RpcError as error:
                    outcomes.append(error.code().name)
                    return
                right = (from_tensor(response.outputs["y"]) == values).all()
                outcomes.append("right" if right else "wrong")
                enough.release()

    with serving(repository.root) as server:
        server.wait_for("ready")
        threads = [threading.Thread(target=send, args=[index]) for index in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            assert enough.acquire(timeout=60)
        server.process.send_signal(signal.SIGTERM)
        assert server.finish() == 0
        for thread in threads:
            thread.join(60)
    assert server.lines[-1]["unfinished"] == 0
    refused = [outcome for outcome in outcomes if outcome != "right"]
    assert refused == ["UNAVAILABLE"] * 8


def test_what_was_accepted_is_finished_after_sigterm(repository: Publisher) -> None:
    """Calls that queue behind a long one when the signal comes are answered all the same."""
    repository("busy", busy())
    with (
        serving(repository.root) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        stub = InferenceServiceStub(channel)
        # It runs for as long as its caller stays.
        endless = stub.Predict.future(steps(100_000_000), timeout=100)
        metrics = server.lines[0]["metrics"]
        wait_until_in_flight(metrics, 1)
        calls = [stub.Predict.future(steps(10), timeout=100) for _ in range(6)]
        wait_until_in_flight(metrics, 7)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_for("draining")["calls"] == 7
        endless.cancel()
        assert [from_tensor(call.result().outputs["size"]).tolist() for call in calls] == [
            [64, 64]
        ] * 6
        assert server.finish() == 0


def wait_until_in_flight(address: str, count: int) -> None:
    """Asks the metrics until so many calls have been accepted."""
    for _ in range(10_000):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
            found = re.search(r"forwardpass_calls_in_flight ([0-9.]+)", response.read().decode())
        assert found is not None
        if float(found[1]) >= count:
            return
    raise AssertionError(f"never {count} calls in flight")


def test_a_second_signal_ends_it_at_once(repository: Publisher) -> None:
    repository("busy", busy())
    with (
        serving(repository.root) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        server.wait_for("ready")
        stub = InferenceServiceStub(channel)
        call = stub.Predict.future(steps(10_000_000), timeout=100)
        wait_until_in_flight(server.lines[0]["metrics"], 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `forwardpass-serve` to its end."""
    code = "from forwardpass.server.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_start_that_cannot_succeed_says_why_in_one_line(
    repository: Publisher, tmp_path: Path
) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no PEM")
    tls = [f"--tls-{name}={text}" for name in ("certificate", "key")]
    managed = [str(repository.root), "--port", "0", "--metrics-port", "0", "--management-port", "0"]
    empty = run(*managed, FORWARDPASS_MANAGEMENT_TOKEN="")
    no_file = run(*managed, "--management-token-file", str(tmp_path / "tokens"))
    cases = [
        (run(str(tmp_path / "nowhere")), 1, "is no folder; give the folder that holds"),
        (run(str(repository.root), *tls), 1, f"setting 'tls_certificate': {text} is no PEM"),
        (empty, 1, "setting 'management_token' is empty"),
        (no_file, 1, f"setting 'management_token_file': cannot read {tmp_path / 'tokens'}: No"),
        (run("models", "--port", "x"), 2, "setting 'port'"),
        (run(str(repository.root), "--tls-key", "k.pem"), 1, "TLS takes both"),
    ]
    for result, code, message in cases:
        assert result.returncode == code
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_an_address_in_use_is_told_with_its_setting(repository: Publisher, transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, setting, address in (
            (["--port", port], "settings 'host' and 'port'", f"127.0.0.1:{port}"),
            (["--metrics-port", port], "settings 'metrics_host' and 'metrics_port'", port),
            (["--management-port", port], "setting 'management_port'", f"127.0.0.1:{port}"),
        ):
            free = ["--port=0", "--metrics-port=0", "--transport", transport]
            result = run(str(repository.root), *free, *flags)
            assert result.returncode == 1
            told = result.stderr.splitlines()[-1]
            assert told.startswith(f"forwardpass-serve: error: {setting}: cannot listen on ")
            assert told.endswith(f"{address}: Address already in use: is another server there?")
            assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "setting", "reason"),
    [
        (["--host", "192.0.2.1"], "host", "Cannot assign requested address"),
        (["--host", "no.such.invalid"], "host", "Name or service not known|Temporary failure"),
        (["--metrics-host", "192.0.2.1"], "metrics_host", "Cannot assign requested address"),
        (["--workers=2", "--host", "192.0.2.1"], "host", "Cannot assign requested address"),
    ],
)
def test_an_address_that_is_not_ours_is_told_with_its_setting(
    repository: Publisher, flags: list[str], setting: str, reason: str
) -> None:
    result = run(str(repository.root), "--port=0", "--metrics-port=0", *flags)
    assert result.returncode == 1
    told = result.stderr.splitlines()[-1]
    assert re.search(f"settings '{setting}' and .*cannot listen on {flags[-1]}:0: ({reason})", told)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_t134_an_address_of_ipv6_is_listened_on_and_printed_as_one_to_connect_to(
    repository: Publisher, host: str, transport: str
) -> None:
    flags = ("--host", host, "--metrics-host", host, "--transport", transport)
    with serving(repository.root, *flags) as server:
        metrics = server.lines[-1]["metrics"]
        assert server.address == f"[{host.strip('[]')}]:{server.port}"
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(60)
        with urllib.request.urlopen(f"http://{metrics}/livez", timeout=60) as response:
            assert response.status == 200


def test_the_server_needs_neither_torch_nor_onnx(repository: Publisher) -> None:
    repository("clf", classifier())
    code = (
        "import sys\n"
        "from forwardpass.server.app import Server\n"
        "from forwardpass.server.settings import Settings\n"
        f"server = Server(Settings(models={str(repository.root)!r}, port=0, metrics_port=0))\n"
        "server.start(); server.wait_loaded(); assert server.readiness.ready; server.stop()\n"
        "unwanted = {'torch', 'onnx', 'matplotlib', 'sklearn', 'typer'} & sys.modules.keys()\n"
        "assert not unwanted, unwanted"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_the_process_that_tries_graphs_loads_nothing_of_the_servers_log() -> None:
    # A start with a cold cache waits for it.
    code = (
        "import sys\nimport forwardpass.server.loading.trial\nassert 'structlog' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_no_telemetry_file_appears(repository: Publisher, tmp_path: Path) -> None:
    repository("clf", classifier())
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    }
    code = (
        "from forwardpass.server.app import Server\n"
        "from forwardpass.server.settings import Settings\n"
        f"server = Server(Settings(models={str(repository.root)!r}, port=0, metrics_port=0))\n"
        "server.start(); server.wait_loaded(); assert server.readiness.ready; server.stop()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert list(home.rglob("*")) == []


def test_t118_a_server_that_leaves_takes_calls_and_says_that_it_goes(repository: Publisher) -> None:
    repository("good", echo(TensorProto.FLOAT, ["n"]))
    with (
        serving(repository.root, "--drain-delay-seconds", "600") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        server.wait_for("ready")
        health: Any = health_pb2_grpc.HealthStub(channel)
        statuses = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
        server.signal(signal.SIGTERM)
        assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(f"http://{server.lines[0]['metrics']}/readyz", timeout=60)
        refused.value.close()
        x = np.ones(3, np.float32)
        request = PredictRequest(model=ModelReference(name="good"), inputs={"x": to_tensor(x)})
        answer = InferenceServiceStub(channel).Predict(request, timeout=60)
        assert from_tensor(answer.outputs["y"]).tolist() == [1, 1, 1]
        server.signal(signal.SIGTERM)
        assert server.process.wait(60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("when", ["at the start", "while it serves"])
def test_t115_a_graph_that_is_being_tried_does_not_hold_up_the_end(
    repository: Publisher, when: str
) -> None:
    repository("good", echo(TensorProto.FLOAT, ["n"]))
    if when == "at the start":
        repository("endless", endless())
    flags = ("--watch", "--sandbox-seconds", "100000", "--drain-seconds", "1")
    with serving(repository.root, *flags) as server:
        if when == "while it serves":
            server.wait_for("ready")
            repository("endless", endless())
        with grpc.insecure_channel(server.address) as channel:
            models: Any = ModelServiceStub(channel)
            wanted = GetModelRequest(model=ModelReference(name="endless"))
            state = None
            while state != MODEL_STATE_LOADING:
                try:
                    state = models.GetModel(wanted, timeout=60).model.summary.state
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017  # not there yet
        server.signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
