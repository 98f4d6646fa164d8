"""Clients and processes: forked, spawned, pickled; a client that was closed.

Each case is a program of its own: the tests' process has used gRPC long before.
"""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from tiny_models import Publisher, embedder

from forwardpass.client import Cancelled, Client, Tls
from forwardpass.client.settings import Settings

# Which transport answers is no matter here.
pytestmark = pytest.mark.parametrize("transport", ["completion_queue"])
_HEAD = """
import multiprocessing, os, sys, threading, time
import numpy as np
from forwardpass.client import Client, Forked
ROWS = np.ones((1, 4), np.float32)
address = sys.argv[1]
client = Client(address, timeout=20)

def ask(_=None):
    return client.embed("emb", ROWS).vectors.tolist()

def in_children(count, work):
    children = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
"""
_BESIDE_THREADS = """
right = ask()
done = threading.Event()
failed = []
def go_on():
    while not done.is_set():
        try:
            assert ask() == right
        except Exception as error:
            failed.append(error)
threads = [threading.Thread(target=go_on) for _ in range(3)]
for thread in threads:
    thread.start()
def refused(make):
    began = time.monotonic()
    try:
        make()
    except Forked as error:
        assert f"was forked from process {os.getppid()}" in str(error) and "spawn" in str(error)
        assert time.monotonic() - began < 5
    else:
        raise AssertionError("it was answered")
def work():
    refused(ask)
    refused(lambda: Client(address).embed("emb", ROWS))
    client.close()
print(in_children(12, work))
done.set()
for thread in threads:
    thread.join()
assert not failed, failed
assert ask() == right
"""
_BEFORE_A_CALL = """
print(in_children(12, ask))
# And in those that come after it, of which the parent knows nothing.
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert len({str(one) for one in pool.map(ask, range(6))}) == 1
ask()
"""
_SPAWNED = """
if __name__ == "__main__":
    right = ask()
    for way in ("spawn", "forkserver"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            assert pool.map(client.model, ["emb"] * 4) == [client.model("emb")] * 4
    print("spawned")
"""
_LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset
class Rows(Dataset):
    def __init__(self, client):
        self.client = client
    def __len__(self):
        return 20
    def __getitem__(self, index):
        return self.client.embed("emb", index * ROWS).vectors[0].copy()
def load(way):
    loader = DataLoader(Rows(client), batch_size=5, num_workers=2, multiprocessing_context=way)
    return torch.concatenate(list(loader))
if __name__ == "__main__":
    # Before this process makes a call of its own.
    forked = load("fork")
    right = torch.from_numpy(client.embed("emb", np.arange(20.0)[:, None] * ROWS).vectors.copy())
    torch.testing.assert_close(forked, right)
    torch.testing.assert_close(load("spawn"), right)
    try:
        load("fork")
    except Forked as error:
        print("Forked", "spawn" in str(error))
"""


@pytest.fixture
def address(repository: Publisher, start_server: StartServer) -> str:
    repository("emb", embedder())
    return start_server().address


def run(code: str, address: str, tmp_path: Path) -> str:
    # A file, as what is spawned imports it.
    path = tmp_path / "program.py"
    path.write_text(_HEAD + code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, path, address], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_child_forked_after_a_call_is_refused_at_once(address: str, tmp_path: Path) -> None:
    """Beside three threads that call, and are not disturbed."""
    assert run(_BESIDE_THREADS, address, tmp_path) == str([0] * 12)


def test_a_child_forked_before_a_call_has_a_connection_of_its_own(
    address: str, tmp_path: Path
) -> None:
    assert run(_BEFORE_A_CALL, address, tmp_path) == str([0] * 12)


def test_a_client_is_handed_to_processes_that_are_spawned(address: str, tmp_path: Path) -> None:
    assert run(_SPAWNED, address, tmp_path) == "spawned"


def test_workers_of_a_data_loader_have_connections_of_their_own(
    address: str, tmp_path: Path
) -> None:
    assert run(_LOADER, address, tmp_path) == "Forked True"


def test_a_pickle_holds_the_settings_and_no_connection(address: str) -> None:
    with Client(address, timeout=7, token="secret", max_message_bytes=1 << 20) as client:
        right = client.embed("emb", np.ones((1, 4), np.float32)).vectors
        copied = pickle.loads(pickle.dumps(client))
    with copied as client:
        assert client.timeout == 7
        assert repr(client) == f"Client({address!r})"
        expected = Settings((address,), timeout=7, token="secret", max_message_bytes=1 << 20)
        assert client._settings == expected
        np.testing.assert_array_equal(
            client.embed("emb", np.ones((1, 4), np.float32)).vectors, right
        )
    assert pickle.loads(pickle.dumps(Tls(ca="ca.pem"))) == Tls(ca="ca.pem")


def test_a_client_that_was_closed_says_so(address: str) -> None:
    rows = np.ones((1, 4), np.float32)
    never_used, used = Client(address), Client(address)
    used.embed("emb", rows)
    for client in (never_used, used):
        client.close()
        client.close()
        with pytest.raises(Cancelled, match="the client was closed"):
            client.embed("emb", rows)
        with pytest.raises(Cancelled, match="the client was closed"):
            next(client.embed_stream("emb", [rows]))
        with pytest.raises(Cancelled, match="the client was closed"):
            client.health()


def test_threads_whose_client_is_closed_beside_them_are_cancelled(address: str) -> None:
    rows = np.ones((1, 4), np.float32)

    def call_on(client: Client) -> None:
        while True:
            client.embed("emb", rows)

    for _ in range(20):
        client = Client(address)
        client.embed("emb", rows)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call_on, client) for _ in range(4)]
            client.close()
            errors = [call.exception() for call in calls]
        assert all(isinstance(error, Cancelled) for error in errors), errors
