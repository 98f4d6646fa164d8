"""What tells how much load a server has: compared with the calls that were made."""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cases.harness import PATIENCE, assert_idle, connect, metric, predict, send, steps, stub_of
from conftest import Running, StartServer
from tiny_models import Publisher, busy, classifier

BUSY, WAITED = "forwardpass_busy_seconds_total", "forwardpass_queue_seconds_total"
CPU = "forwardpass_transport_cpu_seconds_total"
IMAGES = np.zeros((1, 4, 4, 1), np.uint8)


def told(answers: Sequence[Any]) -> tuple[float, float]:
    """Returns the seconds of all runs and of all waits, as answers to requests of a row tell."""
    runs = (one.timing.compute.ToNanoseconds() / one.timing.batch_rows for one in answers)
    return sum(runs) / 1e9, sum(one.timing.queue.ToNanoseconds() for one in answers) / 1e9


def counted(running: Running, model: str) -> tuple[float, float]:
    return metric(running, BUSY, model=model), metric(running, WAITED, model=model)


def test_seconds_are_those_that_the_answers_tell(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    repository("busy", busy())
    running = start_server()
    assert counted(running, "clf") == counted(running, "busy") == (0, 0)
    answers = [running.inference.Predict(steps(2_000, timing=True)) for _ in range(5)]
    # A run's timing counts its one request as a row.
    assert {one.timing.batch_rows for one in answers} == {1}
    assert counted(running, "busy") == pytest.approx(told(answers))
    assert counted(running, "clf") == (0, 0)


def test_requests_that_share_a_run_count_it_once_and_each_its_own_wait(
    repository: Publisher, start_server: StartServer
) -> None:
    """Also where the model runs on the transport's thread, and no job is ever seen to wait."""
    repository("clf", classifier())
    running = start_server()
    request = predict("clf", {"image": IMAGES}, timing=True)
    answers = [future.result(PATIENCE) for future in [send(running, request) for _ in range(200)]]
    ran, waited = told(answers)
    assert counted(running, "clf") == pytest.approx((ran, waited))
    assert ran > 0
    assert waited > 0


@pytest.mark.parametrize("transport", ["completion_queue"])
def test_a_run_counts_while_it_is_under_way_and_when_it_is_stopped(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("busy", busy())
    running = start_server()
    call = send(running, steps(100_000_000))
    readings = [metric(running, BUSY)]
    while readings[-1] < 0.2:
        readings.append(metric(running, BUSY))
    call.cancel()
    assert_idle(running)
    # It ends a moment after its caller has gone.
    while readings[-1] != readings[-2]:
        readings.append(metric(running, BUSY))
    assert all(earlier <= later for earlier, later in pairwise(readings))
    assert metric(running, "nv_inference_exec_count") == 0
    # What comes next is added to it.
    answer = running.inference.Predict(steps(2_000, timing=True))
    assert metric(running, BUSY) - readings[-1] == pytest.approx(told([answer])[0])


def test_processor_time_of_the_thread_that_answers_all_calls(
    repository: Publisher, start_server: StartServer, transport: str
) -> None:
    repository("clf", classifier())
    running = start_server()
    names = ("process_cpu_seconds_total", CPU)
    process_before, before = (metric(running, name) for name in names)
    with connect(running) as channel:
        for _ in range(200):
            stub_of(channel).Predict(predict("clf", {"image": IMAGES}))
    after, process_after = (metric(running, name) for name in reversed(names))
    if transport == "stock":
        # There every call has a thread of its own.
        assert (before, after) == (0, 0)
    else:
        # The process's is told in ticks.
        tick = 1 / os.sysconf("SC_CLK_TCK")
        assert 0 < after - before <= process_after - process_before + 2 * tick


def test_memory_and_readiness_are_told(repository: Publisher, start_server: StartServer) -> None:
    assert metric(start_server(), "forwardpass_ready") == 0
    repository("clf", classifier())
    running = start_server()
    assert metric(running, "forwardpass_ready") == 1
    limit = metric(running, "forwardpass_memory_limit_bytes")
    assert 0 < metric(running, "forwardpass_memory_available_bytes") < limit
    running.server.readiness.drain()
    assert metric(running, "forwardpass_ready") == 0
