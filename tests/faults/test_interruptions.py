"""What comes over a server from outside: it is killed or stopped, its memory or its clock goes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from open_inference.calls import Calls
from server.test_process import serving, steps, wait_until_in_flight
from server.test_workers import children_of, workers_of
from tiny_models import Publisher, busy

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

from .callers import PATIENCE, Caller, Clients, publish_what_they_ask
from .confinement import Confined, confined
from .conftest import Line, Tell

LIMIT = 1 << 30
KILLS, STOPS, JUMPS = 1, 1, 2
HOUR = 3600
# How long those wait who will not wait any longer when a server goes on, in seconds.
HASTE = 5.0
FAKE_TIME = next(
    (
        found
        for folder in ("/usr/lib", f"{sys.prefix}/parts/usr/lib")
        for found in Path(folder).glob("*/faketime/libfaketime.so.1")
    ),
    None,
)
# Takes memory a mebibyte at a time until somebody in its group is killed for it.
HOG = """
import sys
from pathlib import Path
kept, folder = [], Path(sys.argv[1])
(folder / "cgroup.procs").write_text("0")
def kills():
    files = [folder / name for name in ("memory.oom_control", "memory.events")]
    text = "".join(file.read_text() for file in files if file.exists())
    return dict(line.split() for line in text.splitlines())["oom_kill"]
before = kills()
while kills() == before:
    kept.append(bytearray(b"x" * (1 << 20)))
"""


def again_and_again(seconds: float, least: int, fault: Callable[[], None]) -> int:
    """Has a fault happen for some seconds, and so often at least; returns how often it did."""
    times, end = 0, time.monotonic() + seconds
    while times < least or time.monotonic() < end:
        fault()
        times += 1
    return times


def request_of(*numbers: float) -> PredictRequest:
    x = to_tensor(np.array(numbers, np.float32))
    return PredictRequest(model=ModelReference(name="echo"), inputs={"x": x})


def numbers_of(answer: Any) -> list[float]:
    numbers: list[float] = from_tensor(answer.outputs["y"]).tolist()
    return numbers


def metric(server: Confined, name: str, label: str = "") -> float:
    """Returns the sum of those samples of a metric that have a label."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=PATIENCE) as page:
        text = page.read().decode()
    found = re.findall(rf"^{name}((?:{{.*}})?) (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if label in labels)


def answers_of_busy(server: Confined) -> float:
    return metric(server, "nv_inference_request_success", 'model="busy"')


def all_files(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


@pytest.mark.lasts(10, 1)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f01_a_server_that_is_killed_loses_what_was_under_way_alone(
    transport: str, repository: Publisher, seconds: float, tell: Tell
) -> None:
    publish_what_they_ask(repository)
    files = all_files(repository.root)
    flags = ("--transport", transport, "--threads", "1")
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(repository.root, *flags))]
        servers[0].wait_for("ready")
        port = str(servers[0].port)
        clients = Clients(servers[0].address)

        def kill_and_start() -> None:
            clients.wait_answered()
            servers[-1].process.kill()
            servers[-1].process.wait()
            again = serving(repository.root, *flags, "--port", port)
            servers.append(stack.enter_context(again))

        with clients.asking():
            kills = again_and_again(seconds, KILLS, kill_and_start)
            clients.wait_answered()
        servers[-1].signal(signal.SIGTERM)
        assert servers[-1].finish() == 0
    tell(Line("killed", transport, right=sum(clients.right), lost=len(clients.broken)))
    clients.assert_well(kills * len(clients.right))
    assert all_files(repository.root) == files


@pytest.mark.lasts(10, 1)
def test_f01_workers_that_are_killed_lose_what_was_under_way_alone(
    repository: Publisher, seconds: float, tell: Tell
) -> None:
    if not seconds:
        pytest.skip("only by `make faults`: tests/server/test_workers.py kills one")
    publish_what_they_ask(repository)
    with serving(repository.root, "--workers", "2", "--threads", "1") as server:
        server.wait_for("ready")
        clients = Clients(server.address)

        def kill_one() -> None:
            clients.wait_answered()
            os.kill(workers_of(server)[0], signal.SIGKILL)
            ended = server.wait_for("worker_ended")
            server.wait_for("ready", worker=ended["number"])

        with clients.asking():
            kills = again_and_again(seconds, KILLS, kill_one)
            clients.wait_answered()
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    tell(Line("worker killed", "auto", right=sum(clients.right), lost=len(clients.broken)))
    clients.assert_well(kills * len(clients.right))


@pytest.mark.lasts(8, 1)
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f03_a_server_that_is_stopped_for_a_while_answers_who_has_waited_and_nobody_else(
    transport: str, tmp_path: Path, seconds: float, tell: Tell
) -> None:
    publish_what_they_ask(Publisher(tmp_path))
    Publisher(tmp_path)("busy", busy())
    flags = ("--transport", transport, "--threads", "1")
    with (
        confined(tmp_path, LIMIT, *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = InferenceServiceStub(channel)
        first, answered = server.used, []

        def stop_and_continue() -> None:
            before = answers_of_busy(server)
            # It runs for as long as its caller stays, and the hasty ones wait for it.
            endless = stub.Predict.future(steps(100_000_000), timeout=4 * PATIENCE)
            wait_until_in_flight(server.metrics, 1)
            hasty = [stub.Predict.future(steps(1), timeout=HASTE) for _ in range(20)]
            wait_until_in_flight(server.metrics, 21)
            server.process.send_signal(signal.SIGSTOP)
            patient = [stub.Predict.future(request_of(n, -n), timeout=PATIENCE) for n in range(20)]
            for call in hasty:
                assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            server.process.send_signal(signal.SIGCONT)
            assert [numbers_of(call.result()) for call in patient] == [[n, -n] for n in range(20)]
            endless.cancel()
            last = stub.Predict(steps(1), timeout=PATIENCE)
            assert from_tensor(last.outputs["size"]).tolist() == [64, 64]
            assert answers_of_busy(server) == before + 1
            answered.extend(patient)

        again_and_again(seconds, STOPS, stop_and_continue)
        caller = Caller(server.address)
        with caller.asking():
            threading.Event().wait(0.5)
        caller.assert_well()
        tell(Line("stopped", transport, (first, server.used), (caller.p99,), len(answered)))


@pytest.mark.lasts(20, 0.5)
def test_f12_a_worker_that_the_kernel_kills_for_memory_is_started_again(
    tmp_path: Path, seconds: float, tell: Tell
) -> None:
    publish_what_they_ask(Publisher(tmp_path))
    with confined(tmp_path, LIMIT, "--workers", "2", "--threads", "1") as server:
        group = server.group
        if group is None:
            pytest.skip("no control group can be made here")
        clients = Clients(server.address)
        first = server.used

        def exhaust() -> None:
            clients.wait_answered()
            before = metric(server, "forwardpass_worker_restarts_total")
            while metric(server, "forwardpass_worker_restarts_total") == before:
                # Its first choice; where it is slow to go, the kernel may choose the hog as well.
                victim = children_of(server.process.pid)[0]
                Path(f"/proc/{victim}/oom_score_adj").write_text("1000")
                subprocess.run([sys.executable, "-c", HOG, str(group.folder)], check=False)
                clients.wait_answered(1)

        with clients.asking():
            times = again_and_again(seconds / 2, 1, exhaust)
            clients.wait_answered()
        kills = group.kills
        assert kills >= times
        assert server.process.poll() is None
        tell(
            Line(
                "out of memory",
                "auto",
                (first, server.used),
                right=sum(clients.right),
                lost=len(clients.broken),
            )
        )
    clients.assert_well(kills * len(clients.right))


@pytest.mark.lasts(8, 1)
@pytest.mark.skipif(FAKE_TIME is None, reason="takes libfaketime: apt-get install libfaketime")
@pytest.mark.parametrize("transport", ["completion_queue", "stock"])
def test_f15_a_clock_that_jumps_ends_no_call(
    transport: str, tmp_path: Path, seconds: float, tell: Tell
) -> None:
    root = tmp_path / "models"
    root.mkdir()
    publish_what_they_ask(Publisher(root))
    Publisher(root)("busy", busy())
    offset = tmp_path / "offset"
    offset.write_text("+0")
    flags = ("--transport", transport, "--threads", "1")
    environment = {
        "LD_PRELOAD": str(FAKE_TIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # By its older name too: the kernel never lets this clock jump.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with (
        confined(root, LIMIT, *flags, **environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = InferenceServiceStub(channel)
        # Its time is not over before the last jump.
        under_way = stub.Predict.future(steps(100_000_000), timeout=4 * PATIENCE + seconds)
        caller = Caller(server.address)
        hours = iter([1, -1] * 10_000)
        seen: list[float] = []

        def jump() -> None:
            # As a whole, as the server reads it for each look at the clock.
            aside = offset.with_suffix(".new")
            aside.write_text(f"{next(hours) * HOUR:+}")
            aside.rename(offset)
            answers = len(caller.seconds)
            while len(caller.seconds) < answers + 10:
                assert numbers_of(stub.Predict(request_of(2, 3), timeout=PATIENCE)) == [2, 3]
            assert not under_way.done()
            seen.append(told_time(channel) - time.time())

        first = server.used
        with caller.asking():
            again_and_again(seconds, JUMPS, jump)
        under_way.cancel()
        caller.assert_well()
        tell(
            Line(
                "clock jumps",
                transport,
                (first, server.used),
                (caller.p99,),
                len(caller.seconds),
            )
        )
    # They were jumps to the server.
    assert max(seen) > HOUR - PATIENCE
    assert min(seen) < -HOUR + PATIENCE


def told_time(channel: grpc.Channel) -> float:
    """Returns when the model was last run, in seconds since 1970 by the server's clock."""
    (statistics,) = Calls(channel)("ModelStatistics", name="echo").model_stats
    last: int = statistics.last_inference
    return last / 1000
