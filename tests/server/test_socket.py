"""Serving on a unix-domain socket: who gets its file, who may use it, and who calls through it."""

import fcntl
import os
import re
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from tiny_models import EMBEDDER_WEIGHTS, Publisher, embedder

from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.settings_sources import load
from forwardpass.server.transport.listener import Listener
from forwardpass.v1.model_service_pb2 import ModelReference, UnloadModelRequest

from .test_process import serving

FEATURES = np.array([[1, 0, 0, 0]], np.float32)
SERVER_GONE = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forwardpass.sock"


def assert_served(address: str) -> None:
    with Client(address) as client:
        vectors = client.embed("emb", FEATURES).vectors
    np.testing.assert_allclose(vectors, EMBEDDER_WEIGHTS[:1], rtol=1e-5)


def refusal(start_server: StartServer, path: Path) -> str:
    """Returns why a server does not start."""
    with pytest.raises(OSError, match=re.escape(f"cannot listen on unix:{path}")) as caught:
        start_server(host=f"unix:{path}")
    return str(caught.value)


def test_a_server_answers_on_its_socket_and_removes_it(
    repository: Publisher, start_server: StartServer, path: Path
) -> None:
    repository("emb", embedder())
    running = start_server(host=f"unix:{path}")
    assert_served(running.address)
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    # Its owner and group connect; nobody else does.
    assert stat.S_IMODE(mode) == 0o660
    running.server.stop()
    assert not path.exists()


def test_an_address_is_written_as_in_a_url(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("emb", embedder())
    running = start_server(host=f"unix://{tmp_path}/a%20server.sock")
    assert running.address == f"unix:{tmp_path}/a%20server.sock"
    assert_served(running.address)
    assert (tmp_path / "a server.sock").is_socket()


def test_what_a_dead_server_left_is_replaced(
    repository: Publisher, start_server: StartServer, path: Path
) -> None:
    repository("emb", embedder())
    with serving(repository.root, "--host", f"unix:{path}") as dead:
        assert dead.address == f"unix:{path}"
        dead.signal(signal.SIGKILL)
        dead.process.wait(SERVER_GONE)
    assert path.is_socket()
    assert_served(start_server(host=f"unix:{path}").address)


def test_the_socket_of_a_live_server_is_left_to_it(
    repository: Publisher, start_server: StartServer, path: Path
) -> None:
    repository("emb", embedder())
    running = start_server(host=f"unix:{path}")
    assert refusal(start_server, path).endswith("another server is there")
    assert_served(running.address)


def test_servers_that_start_at_a_time_take_turns(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)

    def is_locked() -> bool:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(folder, fcntl.LOCK_UN)
        return False

    locked = []

    def add_port(_: str) -> int:
        locked.append(is_locked())
        return 1

    try:
        Listener(f"unix:{path}", 1 << 20, 1, 1, None).bind(add_port)
        assert locked == [True]
        assert not is_locked()
    finally:
        os.close(folder)


def test_what_is_no_socket_is_left_alone(start_server: StartServer, path: Path) -> None:
    path.write_text("mine", encoding="ascii")
    assert refusal(start_server, path).endswith("there is something else than a socket")
    assert path.read_text(encoding="ascii") == "mine"


def test_where_no_socket_can_be_it_is_told(start_server: StartServer, tmp_path: Path) -> None:
    assert refusal(start_server, tmp_path / "none" / "a.sock").endswith("No such file or directory")
    assert "at most 107 bytes, and this has" in refusal(start_server, tmp_path / ("a" * 107))


def test_management_calls_through_a_socket_take_no_token(
    repository: Publisher, start_server: StartServer, path: Path
) -> None:
    repository("emb", embedder())
    address = f"unix:{path}"
    running = start_server(host=address, port=8001, management_port=8001)
    gone = running.models.UnloadModel(
        UnloadModelRequest(model=ModelReference(name="emb")), timeout=60
    )
    assert [version.model.version for version in gone.models] == [1]
    with pytest.raises(SettingsError, match="take a management_token"):
        Server(
            Settings(models=repository.root, host="0.0.0.0", port=8001, management_port=8001),
        )


def test_a_path_that_is_not_absolute_is_refused() -> None:
    assert load(["models", "--host", "unix:///run/a.sock"]).host == "unix:/run/a.sock"
    with pytest.raises(SettingsError, match="setting 'host': the path of a socket is absolute"):
        load(["models", "--host", "unix:a.sock"])
