"""What goes wrong around a server that serves: its log takes nothing, its folder holds anything."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from server.loading.test_sandbox import empty_nodes, large_weights, large_zeros, zeros
from server.process.test_log import BURST, SERVE, fail, fail_until_dropped, stop_reading
from server.repository.test_hostile_folders import FAULTS
from server.test_process import serving
from tiny_models import Publisher, gallery, picker

from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
    ListModelsRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub

from .callers import PATIENCE, Caller, publish_what_they_ask
from .confinement import Confined, confined
from .conftest import MIB, Line, Tell

LIMIT = 1 << 30
# What may stay of a round of broken folders that have gone again.
LEFT_BYTES = 50 * MIB


@pytest.fixture
def root(tmp_path: Path, seconds: float) -> Path:
    """A repository; only by `make faults`, as there are cases of each (T124 to T126, T130)."""
    if not seconds:
        pytest.skip("only by `make faults`")
    root = tmp_path / "models"
    root.mkdir()
    publish_what_they_ask(Publisher(root))
    return root


def fail_for(address: str, seconds: float) -> None:
    """Makes calls whose faults have lines in the log, and tracebacks, for some seconds."""
    end = time.monotonic() + seconds
    with grpc.insecure_channel(address) as channel:
        while time.monotonic() < end:
            fail(channel, BURST)


@pytest.mark.lasts(8, 1)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f09_a_log_that_nobody_reads_costs_nobody_an_answer(
    transport: str, root: Path, seconds: float, tell: Tell
) -> None:
    Publisher(root)("gallery", gallery())
    flags = ("--transport", transport, "--threads", "1", "--log-level", "debug")
    with serving(root, *flags) as server:
        server.wait_for("ready")
        stop_reading(server)
        caller = Caller(server.address)
        with caller.asking():
            with grpc.insecure_channel(server.address) as channel:
                fail_until_dropped(server, channel)
            fail_for(server.address, seconds)
    tell(Line("log blocked", transport, (), (caller.p99,), len(caller.seconds), len(caller.lost)))
    caller.assert_well()


@pytest.mark.lasts(8, 1)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f09_a_log_on_a_full_disk_costs_nobody_an_answer(
    transport: str, root: Path, seconds: float, tell: Tell
) -> None:
    Publisher(root)("gallery", gallery())
    address = f"unix:{root.parent}/socket"
    command = [sys.executable, "-c", SERVE, str(root), "--host", address, "--metrics-port", "0"]
    command += ["--transport", transport, "--threads", "1", "--log-level", "debug"]
    with ExitStack() as stack:
        full = stack.enter_context(Path("/dev/full").open("wb"))
        process = stack.enter_context(subprocess.Popen(command, stderr=full))
        stack.callback(process.kill)
        channel = stack.enter_context(grpc.insecure_channel(address))
        grpc.channel_ready_future(channel).result(PATIENCE)
        wait_listed(channel, {"echo", "emb", "gallery"}, MODEL_STATE_READY)
        caller = Caller(address)
        with caller.asking():
            fail_for(address, seconds)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    tell(Line("log full", transport, (), (caller.p99,), len(caller.seconds), len(caller.lost)))
    caller.assert_well()


def of_version(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """Returns what does to a model's folder what another does to that of its version."""
    return lambda folder: damage(folder / "1")


DAMAGES = [
    *[damage for damage, _ in FAULTS],
    *map(of_version, (empty_nodes, zeros, large_zeros, large_weights)),
]


@pytest.mark.lasts(45, 3)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f05_whatever_is_put_into_a_watched_folder_others_are_answered(
    transport: str, root: Path, seconds: float, tell: Tell
) -> None:
    """Pipes, loops of links, texts nested deep, bombs of zeros: taken up, refused, and gone."""
    flags = ("--watch", "--transport", transport, "--threads", "1")
    with (
        confined(root, LIMIT, *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        caller = Caller(server.address)
        left: list[int] = []
        end = time.monotonic() + 3 * seconds
        with caller.asking():
            while len(left) < 2 or time.monotonic() < end:
                come_and_go(root, channel)
                left.append(settled(server))
        assert server.process.poll() is None
    memory = (left[0], left[-1])
    right, lost = len(caller.seconds), len(caller.lost)
    tell(Line("hostile folders", transport, memory, (caller.p99,), right, lost))
    caller.assert_well()
    assert left[-1] - left[0] < LEFT_BYTES


def settled(server: Confined) -> int:
    """Returns the bytes that a server takes once it has given back what it no longer needs."""
    threading.Event().wait(2)
    return server.used


def come_and_go(root: Path, channel: grpc.Channel) -> None:
    """Puts a folder of each kind into a repository, waits until all are refused, removes them."""
    aside = Publisher(root.parent / "aside")
    names = {f"bad-{number}" for number in range(len(DAMAGES))}
    for name, damage in zip(sorted(names), DAMAGES, strict=True):
        damage(aside(name, picker()).parent)
        (aside.root / name).rename(root / name)
    wait_listed(channel, names, MODEL_STATE_FAILED)
    for name in names:
        shutil.rmtree(root / name)
    wait_listed(channel, set(), MODEL_STATE_FAILED)


def wait_listed(channel: grpc.Channel, names: set[str], state: int) -> None:
    """Waits until these models, and no others, are listed in a state."""
    models: Any = ModelServiceStub(channel)
    until = time.monotonic() + 4 * PATIENCE
    while True:
        listed = models.ListModels(ListModelsRequest(), timeout=PATIENCE).models
        found = {one.model.name for one in listed if one.state == state}
        if found == names:
            return
        assert time.monotonic() < until, found ^ names
        threading.Event().wait(0.2)
