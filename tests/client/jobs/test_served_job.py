"""Jobs that a server does: it may be away, busy, restarted, or have another version."""

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Running, StartServer
from looking_models import looks
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import parquet
from tiny_models import Publisher, embedder

from forwardpass.client import Client, Unavailable
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.server_embedder import OpenServer, Patience
from forwardpass.client.settings import Settings

from .conftest import MakePictures
from .server_processes import Servers


@pytest.fixture
def servers(repository: Publisher) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(repository.root, stack)


def start(
    *arguments: object, address: str, wait: str = "2m", naming_seconds: float = 15
) -> subprocess.Popen[bytes]:
    code = (
        "import forwardpass.client.jobs.plan as plan; plan.MAX_SHARD_ROWS = 16;"
        "import forwardpass.client.jobs.naming_stream as naming;"
        f"naming._SECONDS = {naming_seconds};"
        "from forwardpass.client.cli import main; main()"
    )
    return subprocess.Popen(
        [
            *(sys.executable, "-c", code, "embed", *map(str, arguments)),
            *("--server", address, "--wait", wait),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done(out: Path) -> int:
    folder = out / "vectors"
    return sum(path.suffix == ".parquet" for path in folder.iterdir()) if folder.exists() else 0


def wait_for(process: subprocess.Popen[bytes], out: Path, shards: int) -> None:
    """Returns once a job has so many shards."""
    while done(out) < shards:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def table(out: Path) -> pa.Table:
    return parquet.read_table(out / "vectors")


def test_a_job_outlives_servers_and_versions(
    servers: Servers, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    """The server is killed twice, and another version with the same vectors takes over."""
    repository("looks", looks())
    root, out, whole = pictures(1600), tmp_path / "out", tmp_path / "whole"
    servers.start()
    undisturbed = start(root, "--model", "looks", "--out", whole, address=servers.address)
    undisturbed.communicate()
    assert undisturbed.returncode == 0
    process = start(root, "--model", "looks", "--out", out, address=servers.address)
    wait_for(process, out, 5)
    servers.kill()
    # Connections are refused, for as long as it takes the job to notice.
    time.sleep(0.5)
    assert process.poll() is None
    servers.start()
    wait_for(process, out, 30)
    # The same graph, so the same vectors.
    repository("looks", looks(), version=2)
    wait_for(process, out, 60)
    servers.kill()
    servers.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert table(out).equals(table(whole))


def assert_all_of_one_space(out: Path) -> None:
    """Nothing is mixed: what is there is of the version that the job began with."""
    spec = JobFolder.open(out).spec
    facts = {
        parquet.read_schema(path).metadata[b"forwardpass.space_id"].decode()
        for path in (out / "vectors").iterdir()
    }
    assert facts == {spec.space.space_id}
    assert spec.space.version == 1


def test_a_job_keeps_its_version_while_another_takes_its_place(
    servers: Servers, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    """Also from one connection to the next."""
    repository("looks", looks())
    root, out, whole = pictures(3200), tmp_path / "out", tmp_path / "whole"
    servers.start("--connection-seconds", "1", "--connection-grace-seconds", "1")
    undisturbed = start(root, "--model", "looks", "--out", whole, address=servers.address)
    undisturbed.communicate()
    process = start(
        root, "--model", "looks", "--out", out, address=servers.address, naming_seconds=0.2
    )
    wait_for(process, out, 5)
    repository("looks", looks(mixes_rows=True), version=2)
    with Client(servers.address) as client:
        while client.model("looks").summary.version != 2:
            assert process.poll() is None, process.communicate()
    assert done(out) < 200
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert_all_of_one_space(out)
    assert table(out).equals(table(whole))


def test_a_job_ends_where_its_version_is_gone(
    servers: Servers, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    repository("looks", looks())
    root, out = pictures(3200), tmp_path / "out"
    servers.start()
    process = start(root, "--model", "looks", "--out", out, address=servers.address)
    wait_for(process, out, 5)
    servers.kill()
    repository("looks", looks(mixes_rows=True), version=2)
    servers.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err.decode()
    assert b"no version of looks gives vectors of space" in err
    assert b"(versions ready: 2)" in err
    assert_all_of_one_space(out)


def test_five_jobs_share_a_server_that_takes_four_calls(
    servers: Servers, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    repository("looks", looks())
    root = pictures(400)
    servers.start("--max-in-flight", "4")
    outs = [tmp_path / f"out{number}" for number in range(5)]
    processes = [
        start(root, "--model", "looks", "--out", out, address=servers.address) for out in outs
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    assert all(table(out).equals(table(outs[0])) for out in outs)


def test_patience_ends(repository: Publisher, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((4, 4), np.float32))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        process = start(
            tmp_path / "rows.npy", "--model", "m", "--out", tmp_path / "out",
            address=address, wait="1s",
        )  # fmt: skip
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert err.splitlines()[-1].startswith(f"error: no connection to {address}".encode())


def test_patience_that_is_ended_ends_at_once() -> None:
    patience = Patience(600)
    failing = threading.Event()

    def fail() -> None:
        failing.set()
        raise Unavailable("no server")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(patience.call, fail)
        failing.wait()
        patience.end()
        assert str(call.exception()) == "the job was ended"


def test_rows_alone_share_no_run(start_server: StartServer, repository: Publisher) -> None:
    repository("features", embedder())
    rows = np.ones((3, 4), np.float32)
    running = start_server()
    with Client(running.address) as client, ThreadPoolExecutor(16) as pool:

        def embed(_: int) -> int:
            timing = client.embed("features", rows, alone=True, timing=True).timing
            assert timing is not None
            return timing.batch_rows

        assert set(pool.map(embed, range(400))) == {3}
        # Without timing a request could be remembered, and one like it be gathered.
        before = runs(running)
        for _ in pool.map(lambda _: client.embed("features", rows, alone=True), range(400)):
            pass
        assert runs(running) - before == 400


def runs(running: Running) -> float:
    """Returns how many runs the server has made."""
    with urllib.request.urlopen(f"{running.metrics_url}/metrics", timeout=30) as response:
        text = response.read().decode()
    (family,) = (
        family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("nv_inference_exec_count")
    )
    return sum(sample.value for sample in family.samples)


def test_a_token_is_not_shown() -> None:
    opened = OpenServer(Settings(("h:1",), token="secret"), "m", None, 1.0)
    assert "secret" not in repr(opened)


def test_an_unknown_host_is_waited_for(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((4, 4), np.float32))
    process = start(
        tmp_path / "rows.npy", "--model", "m", "--out", tmp_path / "out",
        address="no-such-host.invalid:8001", wait="1s",
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
