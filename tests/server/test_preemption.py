"""The scheduling policy of a server's threads: another where no model has threads of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from server.test_process import ServerProcess, serving
from tiny_models import Publisher, classifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these policies")


@contextmanager
def started(repository: Path, *flags: str, policy: int = os.SCHED_OTHER) -> Iterator[ServerProcess]:
    """Starts a server under a policy, on one core, where a small model is small on any machine."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    os.sched_setscheduler(0, policy, os.sched_param(0))
    try:
        with serving(repository, *flags) as server:
            server.wait_for("ready")
            yield server
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cores)


def policies(server: ServerProcess) -> set[int]:
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    return {os.sched_getscheduler(int(thread.name)) for thread in threads}


def give_threads(repository: Publisher, name: str) -> None:
    """Has a model that is yet to come run on threads of its own."""
    folder = repository.root / name
    folder.mkdir()
    (folder / "config.pbtxt").write_text("instance_group { count: 2 }")


def test_threads_do_not_interrupt_one_another(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root) as server:
        assert policies(server) == {os.SCHED_BATCH}


def test_they_do_where_one_of_the_models_has_threads(repository: Publisher) -> None:
    give_threads(repository, "own")
    repository("own", classifier())
    repository("clf", classifier())
    with started(repository.root) as server:
        assert policies(server) == {os.SCHED_OTHER}


def test_they_do_from_when_such_a_model_is_loaded(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root, "--watch") as server:
        assert policies(server) == {os.SCHED_BATCH}
        give_threads(repository, "own")
        repository("own", classifier())
        assert server.wait_for("model_ready")["model"] == "own"
        assert policies(server) == {os.SCHED_OTHER}


def test_what_the_operator_has_chosen_stays(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root, policy=os.SCHED_IDLE) as server:
        assert policies(server) == {os.SCHED_IDLE}


def test_each_of_several_workers_chooses(repository: Publisher) -> None:
    repository("clf", classifier())
    with started(repository.root, "--workers", "2") as server:
        threads = Path(f"/proc/{server.pid}/task").glob("*/children")
        workers = [int(worker) for thread in threads for worker in thread.read_text().split()]
        assert [os.sched_getscheduler(worker) for worker in workers] == [os.SCHED_BATCH] * 2
