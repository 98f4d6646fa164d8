"""The port of the metrics and probes: what it answers, and whom it goes on answering."""

import gzip
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.request import urlopen

import pytest
from certificates import Authority
from conftest import StartServer
from hyperframe.frame import SettingsFrame
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector
from server.test_process import ServerProcess, serving
from structlog.testing import capture_logs
from tiny_models import Publisher, classifier

from forwardpass.server.metrics import http
from forwardpass.server.metrics.http import MetricsServer

PATIENCE = 60
# What a gRPC client begins a connection with, which the server then keeps.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that is alive and not ready."""
    server = MetricsServer("127.0.0.1", 0, CollectorRegistry(), lambda: False)
    yield server.port
    server.stop()


def ask(
    port: int, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(host, port, timeout=PATIENCE)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def status(port: int, path: str) -> int:
    return ask(port, path)[0].status


def port_of(server: ServerProcess) -> int:
    (address,) = {line["metrics"] for line in server.lines if "metrics" in line}
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/nope"])
def test_t135_head_tells_what_get_would_without_the_body(port: int, path: str) -> None:
    got, body = ask(port, path)
    head, nothing = ask(port, path, "HEAD")
    assert nothing == b""
    assert head.status == got.status
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(body))


def test_t135_a_query_changes_nothing(port: int) -> None:
    assert status(port, "/livez?verbose") == 200
    assert status(port, "/readyz?a=b&c") == 503
    assert status(port, "/metrics?name[]=up") == 200
    assert status(port, "/?/metrics") == 404


def test_what_is_not_there_and_what_cannot_be_done_is_told(port: int) -> None:
    answer, body = ask(port, "/nope")
    assert (answer.status, body) == (404, b"try /metrics, /livez, /readyz, /startedz\n")
    for method in ("POST", "DELETE", "OPTIONS", "BREW"):
        answer, body = ask(port, "/livez", method)
        assert (answer.status, body) == (405, b"try GET, HEAD\n")
        assert answer.headers["Allow"] == "GET, HEAD"


def test_t135_metrics_come_in_the_form_that_is_asked_for(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    port = start_server().server.metrics_port
    answer, text = ask(port, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in plain(text.decode())}
    assert {"forwardpass_model_info", "process_resident_memory_bytes"} <= names
    # What Prometheus itself sends.
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
    answer, packed = ask(port, "/metrics", Accept=accept, Accept_Encoding="gzip")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(packed) == int(answer.headers["Content-Length"]) < len(text)
    opened = gzip.decompress(packed).decode()
    families: list[Metric] = list(open_metrics(opened))  # type: ignore[no-untyped-call]
    assert "grpc_server_handling_seconds" in {family.name for family in families}
    for odd in ("text/plain;version=x,;=,*", "application/openmetrics-text;version=9.9;escaping=?"):
        assert ask(port, "/metrics", Accept=odd)[0].status == 200


class Broken(Collector):
    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("broken")


def test_metrics_that_cannot_be_had_are_an_error_in_the_log_and_the_probes_go_on() -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    server = MetricsServer("127.0.0.1", 0, registry, lambda: True)
    try:
        with capture_logs() as lines:
            assert status(server.port, "/metrics") == 500
            assert status(server.port, "/readyz") == 200
        assert [(line["log_level"], line["event"]) for line in lines] == [("error", "page_failed")]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("given", "reached"),
    [("::1", ["::1"]), ("::", ["::1", "127.0.0.1"]), ("localhost", ["localhost"])],
)
def test_t134_it_listens_on_both_kinds_of_addresses(given: str, reached: Sequence[str]) -> None:
    server = MetricsServer(given, 0, CollectorRegistry(), lambda: True)
    try:
        for host in reached:
            assert ask(server.port, "/livez", host=host)[0].status == 200
    finally:
        server.stop()


def test_t138_a_port_in_use_is_told(port: int) -> None:
    told = f"cannot listen on 127.0.0.1:{port}: Address already in use: is another server there"
    with pytest.raises(OSError, match=told):
        MetricsServer("127.0.0.1", port, CollectorRegistry(), lambda: True)


def test_who_is_slow_is_left(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "_PATIENCE", 0.05)
    with capture_logs() as lines, socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
        one.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        assert one.recv(1) == b""
    assert [(line["log_level"], line["event"]) for line in lines] == [("debug", "request_broken")]
    assert capfd.readouterr() == ("", "")


def test_t119_connections_that_break_are_debug_lines(repository: Publisher) -> None:
    reset = struct.pack("ii", 1, 0)
    with serving(repository.root, "--log-level", "debug") as server:
        server.wait_for("not_ready")
        port = port_of(server)
        for sent in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: a", b"\x16\x03\x01\x02\0"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
                one.sendall(sent)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
            one.sendall(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n")
            assert one.makefile("rb").read()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
            one.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert status(port, "/livez") == 200
        server.process.terminate()
        # Every line that is read is one of JSON.
        assert server.finish() == 0
    broken = [line for line in server.lines if line["event"].startswith("request_")]
    assert {line["level"] for line in broken} == {"debug"}
    assert not any("livez" in str(line) for line in server.lines)


def descriptors(server: ServerProcess) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{server.pid}/fd").iterdir()}


def take_all(server: ServerProcess, port: int, stack: ExitStack) -> None:
    """Leaves a server a few descriptors, and connects until it has used them up."""
    spare = 30
    limit = max(descriptors(server)) + spare
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit))
    for _ in range(limit - len(descriptors(server)) + spare):
        one = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        one.sendall(HELLO)
    for _ in range(100_000):
        if descriptors(server) == set(range(limit)):
            return
    raise AssertionError("there are descriptors left")


def test_t119_probes_are_answered_while_no_descriptor_is_left(
    repository: Publisher, transport: str
) -> None:
    repository("clf", classifier())
    with serving(repository.root, "--transport", transport) as server, ExitStack() as stack:
        server.wait_for("ready")
        port = port_of(server)
        take_all(server, server.port, stack)
        for _ in range(20):
            assert status(port, "/livez") == status(port, "/readyz") == 200
        assert status(port, "/metrics") == 200


@contextmanager
def serving_by_tls(
    root: Path, authority: Authority, folder: Path
) -> Iterator[tuple[ServerProcess, Callable[[str], str]]]:
    """Gives a server, and what gets one of its pages."""
    certificate, key = authority.issue().write(folder)
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--metrics-tls")
    with serving(root, *flags) as server:
        server.wait_for("not_ready")

        def get(path: str) -> str:
            url = f"https://localhost:{port_of(server)}{path}"
            with urlopen(url, timeout=PATIENCE, context=context) as answer:
                text: str = answer.read().decode()
                return text

        yield server, get


def held(server: ServerProcess) -> set[int]:
    """Returns the descriptors that stay: those of callers go a moment after their answer."""
    return set.intersection(*(descriptors(server) for _ in range(1_000)))


def test_callers_by_tls_that_go_leave_no_descriptor(repository: Publisher, tmp_path: Path) -> None:
    with serving_by_tls(repository.root, Authority(), tmp_path) as (server, get):
        assert get("/livez") == "alive\n"
        before = held(server)
        for sent in (b"", b"\x16\x03\x01\x02\0", b"GET /livez HTTP/1.0\r\n\r\n") * 20:
            with socket.create_connection(("127.0.0.1", port_of(server)), PATIENCE) as one:
                one.sendall(sent)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert get("/livez") == "alive\n"
        assert held(server) == before


def test_probes_by_tls_are_answered_while_no_descriptor_is_left(
    repository: Publisher, tmp_path: Path
) -> None:
    """A certificate that cannot be read just then is one that is kept, and read when it can be."""
    authority = Authority()
    with serving_by_tls(repository.root, authority, tmp_path) as (server, get):
        assert get("/livez") == "alive\n"
        # The next descriptor would be the first that is free.
        taken = held(server)
        free = min(set(range(len(taken) + 1)) - taken)
        before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (free, before[1]))
        authority.issue().write(tmp_path)
        for _ in range(2 * http._RESERVED):
            assert get("/livez") == "alive\n"
        while "forwardpass_certificate_failing 1.0" not in get("/metrics"):
            pass
        assert server.wait_for("certificates_kept")["reason"].endswith(": Too many open files")
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        while "forwardpass_certificate_failing 0.0" not in get("/metrics"):
            pass
        server.wait_for("certificates")


def test_t119_who_says_nothing_is_left_where_descriptors_are_few(repository: Publisher) -> None:
    """Where the reserve is used up too, callers wait until those before them are left or leave."""
    with serving(repository.root) as server, ExitStack() as stack:
        server.wait_for("not_ready")
        port = port_of(server)
        take_all(server, server.port, stack)
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(2 * http._RESERVED)
        ]
        for _ in range(2 * http._RESERVED):
            assert status(port, "/livez") == 200
        assert {one.recv(1) for one in silent} == {b""}


def limits(pid: int) -> Sequence[str]:
    """Returns the soft and the hard limit of open descriptors."""
    for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
        if line.startswith("Max open files"):
            return line.split()[3:5]
    raise AssertionError("no such limit")


def test_the_command_takes_as_many_descriptors_as_it_may(repository: Publisher) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
    try:
        with serving(repository.root) as server:
            assert limits(server.pid) == [str(hard)] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
