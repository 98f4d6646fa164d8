"""Jobs on a Ray cluster: the same tables, also where workers are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from .conftest import MakePictures

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
# Shards of 16 rows, in the workers as well.
_CODE = """
import forwardpass.client.jobs.plan as plan
plan.MAX_SHARD_ROWS = 16
from forwardpass.client.cli import main
main()
"""
_ENDED_BY = 3


@pytest.fixture
def embed() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "FORWARDPASS_SERVER"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", _CODE, "embed", *map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**environment, "RAY_AUTH_MODE": "disabled"},
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def table(out: Path) -> pa.Table:
    return parquet.read_table(out / "vectors")


def workers() -> list[int]:
    """Returns the processes that do shards now."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ray::do_task" in line]


def test_workers_that_are_killed_change_nothing(
    embed: Callable[..., subprocess.Popen[bytes]],
    model: Path,
    pictures: MakePictures,
    tmp_path: Path,
) -> None:
    root, out, alone = pictures(3200), tmp_path / "out", tmp_path / "alone"
    first = embed(root, "--model", model, "--out", alone)
    _, err = first.communicate()
    assert first.returncode == 0, err.decode()
    process = embed(root, "--model", model, "--out", out, "--engine", "ray")
    killed: set[int] = set()
    while process.poll() is None and len(killed) < _ENDED_BY:
        for pid in workers():
            if pid not in killed and len(killed) < _ENDED_BY:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.01)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert len(killed) == _ENDED_BY
    assert table(out).equals(table(alone))
