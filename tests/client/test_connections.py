"""Connections: to several targets, several to one, and with certificates that change."""

import select
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from server.test_process import serving
from tiny_models import Publisher, embedder

from forwardpass.client import InvalidSetting, Tls, Unavailable
from forwardpass.v1 import inference_service_pb2 as pb

from .scripted import Connect, ScriptedServer, StartScripted

BOTH_CLIENTS = True
ANSWER = pb.PredictResponse()


@pytest.fixture
def free() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "127.0.0.1:{1}".format(*listener.getsockname())


def test_targets_are_called_in_turn(scripted: StartScripted, connect: Connect) -> None:
    servers = [scripted(ANSWER) for _ in range(3)]
    client = connect([server.target for server in servers])
    for _ in range(30):
        client.predict("m")
    assert [len(server.seen) for server in servers] == [10, 10, 10]
    assert repr(client).endswith(f"Client({', '.join(s.target for s in servers)!r})")


def test_a_target_without_a_server_is_passed_over(
    scripted: StartScripted, connect: Connect, free: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(ANSWER)
    client = connect([free, server.target, free])
    # More than the tokens of retries would bear, were these retries.
    for _ in range(300):
        client.predict("m")
    assert len(server.seen) == 300
    assert not caplog.records


def test_where_no_target_has_a_server_all_are_named(connect: Connect, free: str) -> None:
    with pytest.raises(Unavailable, match=f"no connection to {free}, localhost:1"):
        connect([free, "localhost:1"], timeout=0.2).predict("m")


def test_connections_are_as_many_as_asked_for(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(ANSWER)
    client = connect(server.target, connections=4)
    for _ in range(20):
        client.predict("m")
    assert len({seen.peer for seen in server.seen}) == 4
    # Nor do clients share them.
    for _ in range(3):
        connect(server.target).predict("m")
    assert len({seen.peer for seen in server.seen}) == 7


def test_several_connections_keep_several_workers_busy(
    repository: Publisher, connect: Connect
) -> None:
    repository("features", embedder())
    flags = ("--workers", "2", "--log-level", "debug", "--no-sandbox")
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        client = connect(server.address, connections=16)
        for _ in range(64):
            client.embed("features", np.ones((1, 4), np.float32))
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    # The kernel chooses a worker for each connection: that one gets none happens once in 2**15.
    assert {line["worker"] for line in server.lines if line["event"] == "call"} == {0, 1}


@pytest.mark.parametrize("wrong", [{"targets": []}, {"connections": 0}, {"max_message_bytes": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], connect: Connect) -> None:
    with pytest.raises(InvalidSetting, match="at least"):
        connect(**wrong)


def test_metadata_goes_with_every_call_and_with_one(
    scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(ANSWER)
    client = connect(server.target, token="t", metadata={"x-tenant": "a", "trace-bin": b"\x00\xff"})
    client.predict("m", metadata={"x-request-id": "mine"})
    client.predict("m")
    first, second = (seen.metadata for seen in server.seen)
    assert (first["x-tenant"], first["trace-bin"]) == ("a", b"\x00\xff")
    assert (first["authorization"], first["x-request-id"]) == ("Bearer t", "mine")
    assert second["x-tenant"] == "a"
    assert "x-request-id" not in second


@pytest.mark.parametrize(
    "metadata",
    [
        {"Upper": "x"},
        {"with space": "x"},
        {"authorization": "Bearer x"},
        {"grpc-timeout": "1S"},
        {"x-bin": "text"},
        {"x": b"bytes"},
        {"x": "line\nbreak"},
        {"x": "żółw"},
    ],
)
def test_metadata_that_cannot_be_sent_is_refused(
    metadata: dict[str, str | bytes], connect: Connect
) -> None:
    with pytest.raises(InvalidSetting, match="metadata"):
        connect("127.0.0.1:1", metadata=metadata)
    with pytest.raises(InvalidSetting, match="metadata"):
        connect("127.0.0.1:1").predict("m", metadata=metadata)


class Secured:
    """A server that asks for a certificate, and a caller's files, which can be replaced."""

    def __init__(self, keys: Path, folder: Path, scripted: StartScripted, *steps: object) -> None:
        pair = ((keys / "server.key").read_bytes(), (keys / "server.pem").read_bytes())
        root = (keys / "root.pem").read_bytes()
        credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=True)
        self.server: ScriptedServer = scripted(*steps, credentials=credentials)
        self._keys, self._folder = keys, folder
        self.replace("client")
        # As in a Secret that Kubernetes mounts.
        (folder / "tls.pem").symlink_to("..data/tls.pem")
        (folder / "tls.key").symlink_to("..data/tls.key")
        self.tls = Tls(keys / "root.pem", folder / "tls.pem", folder / "tls.key")

    def replace(self, name: str, key: str | None = None) -> None:
        version = self._folder / f"{name}-{key}"
        version.mkdir()
        shutil.copy(self._keys / f"{name}.pem", version / "tls.pem")
        shutil.copy(self._keys / f"{key or name}.key", version / "tls.key")
        (self._folder / "..new").symlink_to(version.name)
        (self._folder / "..new").replace(self._folder / "..data")


def test_a_certificate_that_is_replaced_is_used_and_no_call_is_lost(
    keys: Path, tmp_path: Path, scripted: StartScripted, connect: Connect
) -> None:
    has_begun, go_on = threading.Event(), threading.Event()

    def held() -> pb.PredictResponse:
        has_begun.set()
        assert go_on.wait(60)
        return ANSWER

    secured = Secured(keys, tmp_path, scripted, held, ANSWER)
    seen = secured.server.seen
    client = connect(secured.server.target, tls=secured.tls)
    held_call = threading.Thread(target=client.predict, args=["m"])
    held_call.start()
    assert has_begun.wait(60)
    secured.replace("other")
    while not seen or seen[-1].caller != b"other":
        client.predict("m")
    go_on.set()
    held_call.join(60)
    assert {one.caller for one in seen} == {b"client", b"other"}


def test_a_certificate_that_does_not_fit_its_key_changes_nothing(
    keys: Path,
    tmp_path: Path,
    scripted: StartScripted,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secured = Secured(keys, tmp_path, scripted, ANSWER)
    client = connect(secured.server.target, tls=secured.tls)
    client.predict("m")
    secured.replace("other", key="client")
    while not caplog.records:
        client.predict("m")
    client.predict("m")
    assert "stay in use" in caplog.text
    assert {one.caller for one in secured.server.seen} == {b"client"}
    secured.replace("other")
    while secured.server.seen[-1].caller != b"other":
        client.predict("m")


class Silent:
    """Passes bytes on to a server, until it is told to be silent."""

    def __init__(self, target: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = "127.0.0.1:{1}".format(*self._listener.getsockname())
        self._server = target.rpartition(":")
        self.is_silent = threading.Event()
        self._thread = threading.Thread(target=self._pass, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _pass(self) -> None:
        caller, _ = self._listener.accept()
        with caller, socket.create_connection((self._server[0], int(self._server[2]))) as server:
            other = {caller: server, server: caller}
            while True:
                for readable in select.select([caller, server], [], [])[0]:
                    data = readable.recv(1 << 16)
                    if not data:
                        return
                    # Read, so that the kernel acknowledges it, and gone.
                    if not self.is_silent.is_set():
                        other[readable].sendall(data)


@pytest.fixture
def silent(scripted: StartScripted) -> Iterator[tuple[Silent, ScriptedServer]]:
    go_on = threading.Event()

    def held() -> pb.PredictResponse:
        box.is_silent.set()
        go_on.wait(60)
        return ANSWER

    server = scripted(held)
    box = Silent(server.target)
    yield box, server
    go_on.set()
    box.close()


def test_a_connection_that_falls_silent_is_noticed_before_the_call_s_time_is_over(
    silent: tuple[Silent, ScriptedServer], connect: Connect
) -> None:
    """As where a firewall between forgets it. Core has until the deadline to tell otherwise."""
    box, server = silent
    with pytest.raises(Unavailable, match="broke before an answer"):
        connect(box.target).predict("m", timeout=50)
    # The server has it, so it is not sent again.
    assert len(server.seen) == 1
