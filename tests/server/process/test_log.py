"""The log of a process that serves: what becomes of lines that nobody reads, and of callers."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import predict
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server.test_process import ServerProcess, serving
from server.test_workers import samples, workers_of
from tiny_models import Publisher, gallery

from forwardpass.server.process.traceback_limit import TracebackLimit
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ListModelsRequest
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub

PATIENCE = 60
DROPPED = "forwardpass_log_dropped_total"
# Calls that are made at a time, and how often: far more than have lines in the queue.
BURST, BURSTS = 100, 200
SERVE = "from forwardpass.server.cli import main; main()"
# A pipe's smallest size, so that few lines fill it.
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def root(repository: Publisher) -> Path:
    """A repository of one model, which fails where it is told to."""
    repository("gallery", gallery())
    return repository.root


@contextmanager
def connected(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def fail(channel: grpc.Channel, count: int) -> None:
    """Makes calls that fail by a fault of the server's, whose log has a traceback of each."""
    stub: Any = InferenceServiceStub(channel)
    request = predict("gallery", {"pixels": np.zeros((1, 0, 0, 1), np.uint8)}, png=True)
    calls = [stub.Predict.future(request, timeout=PATIENCE) for _ in range(count)]
    assert {call.code() for call in calls} == {grpc.StatusCode.INTERNAL}


def list_models(channel: grpc.Channel, request_id: str) -> None:
    """Makes a call that has one line in the log, at level debug."""
    metadata = (("x-request-id", request_id),)
    stub: Any = ModelServiceStub(channel)
    stub.ListModels(ListModelsRequest(), timeout=PATIENCE, metadata=metadata)


def stop_reading(server: ServerProcess) -> None:
    """Leaves what the server has to say in a pipe that is soon full."""
    assert server.process.stderr is not None
    fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, PAGE)


def stop_listening(server: ServerProcess) -> None:
    """Closes the pipe."""
    assert server.process.stderr is not None
    server.process.stderr.close()


def fail_until_dropped(server: ServerProcess, channel: grpc.Channel) -> None:
    """Makes calls that fail, all of which are answered, until lines of the log are dropped."""
    for _ in range(BURSTS):
        fail(channel, BURST)
        if sum(samples(server, DROPPED)) > 0:
            return
    raise AssertionError("no line is dropped")


@pytest.mark.parametrize("silence", [stop_reading, stop_listening])
def test_t130_calls_are_answered_and_drained_whoever_reads(
    root: Path, transport: str, silence: Any
) -> None:
    flags = ("--transport", transport, "--log-level", "debug")
    with serving(root, *flags) as server, connected(server) as channel:
        server.wait_for("ready")
        assert samples(server, DROPPED) == [0]
        silence(server)
        fail_until_dropped(server, channel)
        server.signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("silence", [stop_reading, stop_listening])
def test_t130_workers_answer_and_drain_whoever_reads(root: Path, silence: Any) -> None:
    flags = ("--workers", "2", "--log-level", "debug")
    with serving(root, *flags) as server, connected(server) as channel:
        server.wait_for("ready")
        silence(server)
        fail_until_dropped(server, channel)
        server.signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_t130_a_full_disk_keeps_nobody_from_serving(
    root: Path, tmp_path: Path, transport: str
) -> None:
    host = f"unix:{tmp_path}/socket"
    arguments = [str(root), "--host", host, "--metrics-port", "0", "--transport", transport]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen([sys.executable, "-c", SERVE, *arguments], stderr=full) as process,
        grpc.insecure_channel(host) as channel,
    ):
        try:
            grpc.channel_ready_future(channel).result(PATIENCE)
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            for answer in health.Watch(request, timeout=PATIENCE):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            fail(channel, BURST)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_lines_are_whole_and_in_order_and_what_is_missing_is_told(root: Path) -> None:
    with serving(root, "--log-level", "debug") as server, connected(server) as channel:
        server.wait_for("ready")
        stop_reading(server)
        sent = 0
        while sum(samples(server, DROPPED)) == 0:
            for _ in range(BURST):
                list_models(channel, str(sent))
                sent += 1
            assert sent < BURST * BURSTS
        for _ in range(BURST):
            server.wait_for("call")
        # Now there is room for one more.
        list_models(channel, str(sent))
        while server.wait_for("call")["request_id"] != str(sent):
            pass
        missing = sum(line["lines"] for line in server.lines if line["event"] == "log_dropped")
        assert samples(server, DROPPED) == [missing]
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    told = [line for line in server.lines if line["event"] in ("call", "log_dropped")]
    gap = sent - missing
    assert [line.get("request_id") for line in told] == [*map(str, range(gap)), None, str(sent)]


def test_t130_what_waits_at_the_end_is_written(root: Path) -> None:
    with serving(root, "--log-level", "debug") as server, connected(server) as channel:
        server.wait_for("ready")
        stop_reading(server)
        for number in range(BURST):
            list_models(channel, str(number))
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    called = [line["request_id"] for line in server.lines if line["event"] == "call"]
    assert called == [str(number) for number in range(BURST)]
    assert server.lines[-1]["event"] == "stopped"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_t131_a_hangup_ends_nothing(root: Path, workers: str) -> None:
    with serving(root, "--workers", workers) as server, connected(server) as channel:
        server.wait_for("ready")
        for pid in [server.pid, *(workers_of(server) if workers == "2" else [])]:
            os.kill(pid, signal.SIGHUP)
        list_models(channel, "after")
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    assert not [line for line in server.lines if line["event"] == "worker_ended"]


def test_t132_a_fault_of_every_call_has_few_tracebacks(root: Path, transport: str) -> None:
    with serving(root, "--transport", transport) as server, connected(server) as channel:
        server.wait_for("ready")
        fail(channel, BURST)
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    failed = [line for line in server.lines if line["event"] == "call_failed"]
    assert len(failed) == BURST
    assert all(("exception" in line) != ("traceback" in line) for line in failed)
    # Threads that fail at one time do not write in the order in which they fail.
    first = next(line for line in failed if "exception" in line)
    assert "cannot write empty image" in first["exception"]
    assert {line["traceback"] for line in failed if "traceback" in line} == {
        "left out: 10 others came within a second"
    }


def test_tracebacks_are_limited_by_the_second() -> None:
    times: Iterator[float] = iter([*[0.0] * 12, 0.9, 1.0, *[1.5] * 10])
    limit = TracebackLimit(lambda: next(times))

    def is_kept() -> bool:
        line = limit(None, "error", {"event": "call_failed", "exc_info": ValueError()})
        assert ("exc_info" in line) != ("traceback" in line)
        return "exc_info" in line

    assert [is_kept() for _ in range(14)] == [True] * 10 + [False] * 3 + [True]
    assert limit(None, "info", {"event": "ready"}) == {"event": "ready"}
    # Nine of the first ten are over a second old.
    assert [is_kept() for _ in range(10)] == [True] * 9 + [False]


def test_t132_callers_that_fail_handshakes_hold_up_nobody(
    root: Path, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each, gRPC core would write a line by itself."""
    authority = Authority()
    certificate, key = authority.issue().write(tmp_path)
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    files = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with serving(root, *files, "--transport", transport) as server:
        server.wait_for("ready")
        stop_reading(server)
        for _ in range(BURST):
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as caller:
                caller.sendall(b"no TLS" * 100)
                assert caller.recv(1) == b""
        address = f"localhost:{server.port}"
        with grpc.secure_channel(address, authority.trusted()) as channel:
            list_models(channel, "right")
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


def logging(code: str, form: str = "json") -> subprocess.CompletedProcess[str]:
    """Runs code where the log is that of a process that serves."""
    begin = (
        "import structlog, sys, threading\n"
        "from forwardpass.server.process import log\n"
        f"log.configure(level='error', form='{form}', waits=False)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", begin + code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_what_python_itself_prints_is_written_in_whole_lines() -> None:
    ended = logging(
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start(); thread.join()\n"
        "structlog.get_logger().error('between', odd='\\ud800')\n"
        "raise ValueError('at the end')\n"
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("Exception in thread")
    between = next(index for index, line in enumerate(lines) if line.startswith("{"))
    assert lines[between - 1] == "ZeroDivisionError: division by zero"
    assert json.loads(lines[between])["event"] == "between"
    assert lines[-1] == "ValueError: at the end"


@pytest.mark.parametrize("form", ["json", "plain"])
def test_a_traceback_shows_no_variables(form: str) -> None:
    ended = logging(
        "def fault(letter):\n"
        "    return letter / 2\n"
        "try:\n"
        "    fault('what a ' + 'caller sent')\n"
        "except TypeError as error:\n"
        "    structlog.get_logger().error('call_failed', exc_info=error)\n",
        form,
    )
    assert ended.returncode == 0
    assert "in fault" in ended.stderr
    assert "TypeError" in ended.stderr
    assert "what a caller sent" not in ended.stderr


def test_a_start_imports_no_rich() -> None:
    code = (
        "import sys\n"
        "from forwardpass.server.process.lean_imports import import_structlog\n"
        "import_structlog()\n"
        "assert 'structlog' in sys.modules and 'rich' not in sys.modules\n"
        "import rich, structlog\n"
        "assert structlog.dev.rich is None\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=True)


def test_a_line_that_was_written_in_part_stays_a_line_of_its_own(tmp_path: Path) -> None:
    """A limit on the size of files, which the notice lifts, stands for a disk that is full."""
    code = (
        "import os, resource, sys\n"
        "from forwardpass.server.process.log_writer import LogWriter\n"
        "unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "def notice(lines):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)\n"
        "    return b'%d missing' % lines\n"
        "writer = LogWriter(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), notice)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3, unlimited[1]))\n"
        "writer.put(b'too long'); writer.put(b'next'); writer.close(60)\n"
        "assert writer.dropped == 1\n"
    )
    written = tmp_path / "log"
    subprocess.run([sys.executable, "-c", code, str(written)], timeout=PATIENCE, check=True)
    assert written.read_text("ascii") == "too\n1 missing\nnext\n"
