"""Runs on the transport's own thread: what arrives in a tick is run at its end."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import EMBEDDER_WEIGHTS, embedder

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.inline_executor import InlineExecutor
from forwardpass.server.scheduling.queue import BatchPolicy
from forwardpass.server.scheduling.watchdog import Watchdog
from forwardpass.server.transport.tick import Tick
from forwardpass.wire import Array, Reason

from .jobs import PAST, Alike, Background, KeepingJob, healthy, job, numbers


class Transport:
    """A transport's thread, which is the test's own, and an executor for it.

    Attributes:
        tick: The transport's.
        executor: Runs a model that gives its input back.
        counters: What it counts.
        runs: The numbers of the rows of each run that was here.
        elsewhere: Those of the runs that were on another thread.
    """

    def __init__(
        self,
        run: Any = None,
        max_rows: int = 4,
        max_jobs: int = 100,
        detector: FailureDetector | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.tick = Tick()
        self.counters = ModelCounters()
        self.runs: list[list[int]] = []
        self.elsewhere: list[list[int]] = []
        self.moves: list[str] = []
        self._thread = threading.current_thread()
        run = run or self._run
        self.watchdog = Watchdog()
        self.executor = InlineExecutor(
            "tiny",
            self.tick,
            self.watchdog,
            run,
            stop,
            0.0,
            BatchPolicy(max_rows, max_jobs),
            self.counters,
            ThreadExecutor(
                "tiny-1",
                run,
                BatchPolicy(64, max_jobs),
                self.counters,
                failure_detector=detector or healthy(),
            ),
            lambda: self.moves.append("tiny"),
        )

    def submit(self, *jobs: KeepingJob) -> None:
        for one in jobs:
            self.executor.submit(one)

    def close(self) -> None:
        Background(self.executor.close).result()
        self.watchdog.close()

    def _run(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[Array]:
        here = threading.current_thread() is self._thread
        # Nobody who waits for a run here could leave during it.
        assert here == (on_begin is None)
        (self.runs if here else self.elsewhere).append(inputs["x"][:, 0].tolist())
        return [inputs["x"]]


Start = Callable[..., Transport]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes a transport with an executor, whose thread is ended after the test."""
    with ExitStack() as stack:

        def start(*args: Any, **options: Any) -> Transport:
            transport = Transport(*args, **options)
            stack.callback(transport.close)
            return transport

        yield start


def test_jobs_of_a_tick_share_a_run_at_its_end_on_the_transports_thread(start: Start) -> None:
    session = Session(embedder().graph.SerializeToString(), {}, threads=1)
    transport = start(session.run)
    rng = np.random.default_rng(6)
    jobs = [
        KeepingJob(
            {"features": rng.normal(size=(rows, 4)).astype(np.float32)}, outputs=("embedding",)
        )
        for rows in (1, 2)
    ]
    transport.submit(*jobs)
    assert not any(one.given for one in jobs)
    assert transport.executor.waiting == 2

    transport.tick.end()
    assert transport.executor.waiting == 0
    for one in jobs:
        np.testing.assert_allclose(
            one.answer.outputs["embedding"],
            one.inputs["features"] @ EMBEDDER_WEIGHTS,
            rtol=1e-5,
            atol=1e-5,
        )
        assert one.thread is threading.current_thread()
    assert transport.counters.batches()[0][:2] == (3, 1)


def test_the_work_of_a_tick_is_put_off_once(start: Start) -> None:
    transport = start()
    transport.submit(job(), job(), job())
    assert len(transport.tick.steps) == 1

    transport.tick.end()
    assert not transport.tick.steps


def test_what_does_not_fit_a_run_waits_for_the_end_of_the_next_tick(start: Start) -> None:
    transport = start(max_rows=2)
    jobs = [job(first=number) for number in range(5)]
    transport.submit(*jobs)
    transport.tick.end()
    assert transport.runs == [[0, 1]]
    # Who comes meanwhile stands at the end.
    late = job(first=5)
    transport.submit(late)
    assert len(transport.tick.steps) == 1

    transport.tick.end()
    assert transport.runs == [[0, 1], [2, 3]]
    transport.tick.end()
    assert transport.runs == [[0, 1], [2, 3], [4, 5]]
    assert not transport.tick.steps
    assert [one.answer.rows for one in (*jobs, late)] == [1] * 6


@settings(deadline=None, max_examples=25)
@given(ticks=st.lists(st.lists(st.integers(0, 6), max_size=5), max_size=5))
def test_a_tick_makes_one_run_and_all_are_answered_in_the_end(ticks: list[list[int]]) -> None:
    transport = Transport(max_rows=4)
    try:
        jobs: list[KeepingJob] = []
        runs = 0
        while ticks or transport.tick.steps:
            first = sum(one.rows for one in jobs)
            for rows in ticks.pop(0) if ticks else []:
                jobs.append(job(rows, first))
                transport.submit(jobs[-1])
                first += rows
            runs += bool(transport.tick.steps)
            transport.tick.end()
            assert len(transport.runs) == runs
        for one in jobs:
            one.wait()
            assert one.answer.outputs["y"].tolist() == one.inputs["x"].tolist()
    finally:
        transport.close()

    assert all(len(rows) <= 4 for rows in transport.runs)
    assert transport.executor.waiting == 0
    large = [number for one in jobs if one.rows > 4 for number in one.inputs["x"][:, 0]]
    assert [number for rows in transport.elsewhere for number in rows] == large


def test_a_job_too_large_for_the_transport_runs_on_another_thread(start: Start) -> None:
    transport = start(max_rows=4)
    just, large = job(4), job(5, first=4)
    transport.submit(just, large)
    large.wait()
    assert large.thread is not threading.current_thread()
    assert large.answer.outputs["y"].tolist() == numbers(4, 5).tolist()
    assert not just.given

    transport.tick.end()
    assert just.thread is threading.current_thread()
    assert transport.elsewhere == [list(range(4, 9))]


def test_jobs_alike_are_answered_together(start: Start) -> None:
    transport = start()
    group = Alike()
    jobs = [job(first=number, group=group) for number in range(3)]
    transport.submit(*jobs)
    transport.tick.end()

    ((together, run),) = group.answers
    assert together == jobs
    assert run.rows == 3


def test_jobs_nobody_waits_for_are_dropped_and_counted(start: Start) -> None:
    transport = start()
    gone, late, good = job(first=0), job(first=1, deadline=PAST), job(first=2)
    transport.submit(gone, late, good)
    gone.abandon()
    transport.tick.end()

    for lost, reason in ((gone, Reason.CANCELLED), (late, Reason.DEADLINE_EXCEEDED)):
        assert isinstance(lost.error, CallError)
        assert lost.error.failure.reason == reason
    assert transport.runs == [[2]]
    dropped = {reason: count.value for reason, count in transport.counters.dropped.items()}
    assert dropped == {"cancelled": 1, "expired": 1}


def test_a_tick_whose_jobs_have_all_gone_runs_nothing(start: Start) -> None:
    transport = start()
    gone = job()
    transport.submit(gone)
    gone.abandon()
    transport.tick.end()

    assert transport.runs == []
    assert transport.executor.waiting == 0
    # The next one is put off anew.
    good = job()
    transport.submit(good)
    transport.tick.end()
    assert good.answer.rows == 1


def test_a_full_queue_refuses_until_the_end_of_the_tick(start: Start) -> None:
    transport = start(max_jobs=2)
    jobs = [job(first=0), job(first=1)]
    for one in jobs:
        transport.executor.check_room()
        transport.submit(one)

    for refused in (transport.executor.check_room, lambda: transport.submit(job())):
        with pytest.raises(CallError) as caught:
            refused()
        assert caught.value.failure.reason == Reason.QUEUE_FULL
    transport.tick.end()
    transport.executor.check_room()
    assert transport.runs == [[0, 1]]


def test_a_tick_makes_one_run_also_where_those_who_have_gone_made_room(start: Start) -> None:
    transport = start(max_rows=1, max_jobs=2)
    gone = [job(first=0), job(first=1)]
    transport.submit(*gone)
    for one in gone:
        one.abandon()
    transport.submit(job(first=2), job(first=3))
    transport.tick.end()
    assert transport.runs == [[2]]

    transport.tick.end()
    assert transport.runs == [[2], [3]]


def test_what_an_answer_leads_to_is_run_in_the_next_tick(start: Start) -> None:
    transport = start()
    second = job(first=1)

    class First(KeepingJob):
        def answered(self, answer: object) -> None:
            transport.submit(second)

    transport.submit(First({"x": numbers(0, 1)}))
    transport.tick.end()
    assert transport.runs == [[0]]
    transport.tick.end()
    assert transport.runs == [[0], [1]]


def test_jobs_that_wait_on_either_thread_are_counted(start: Start) -> None:
    begun, go = threading.Event(), threading.Event()

    def run(outputs: Sequence[str], inputs: Mapping[str, Array], *_: object) -> list[Array]:
        if len(inputs["x"]) > 1:
            begun.set()
            assert go.wait()
        return [inputs["x"]]

    transport = start(run, max_rows=1)
    try:
        transport.submit(job(2))
        assert begun.wait()
        transport.submit(job(2), job(3), job(1))
        assert transport.executor.waiting == 3
        transport.tick.end()
        assert transport.executor.waiting == 2
    finally:
        go.set()


@pytest.mark.parametrize("rows", [1, 2])
def test_failures_on_either_thread_are_told_to_one_detector(start: Start, rows: int) -> None:
    tried = threading.Event()
    detector = FailureDetector(tried.set, lambda: None)

    def broken(*_: object) -> list[Array]:
        raise RuntimeError("broken")

    transport = start(broken, max_rows=1, detector=detector)
    assert transport.executor.failure_detector is detector
    one = job(rows)
    transport.submit(one)
    transport.tick.end()
    one.wait()
    assert str(one.error) == "broken"
    assert tried.is_set()


def test_a_run_that_takes_too_long_is_made_elsewhere_and_so_are_those_that_wait(
    start: Start,
) -> None:
    stopped = threading.Event()
    here = threading.current_thread()
    runs: list[tuple[bool, list[int]]] = []

    def run(outputs: Sequence[str], inputs: Mapping[str, Array], *_: object) -> list[Array]:
        is_here = threading.current_thread() is here
        runs.append((is_here, inputs["x"][:, 0].tolist()))
        if is_here:
            # As ONNX Runtime has it, which then fails.
            assert stopped.wait(30)
            raise RuntimeError("stopped")
        return [inputs["x"]]

    transport = start(run, max_rows=2, stop=stopped.set)
    before = time.perf_counter() - 1000
    jobs = [job(first=number, submitted=before) for number in range(4)]
    transport.submit(*jobs)
    assert transport.executor.is_inline
    while transport.tick.steps:
        transport.tick.end()
    for one in jobs:
        one.wait()
        assert one.answer.outputs["y"].tolist() == one.inputs["x"].tolist()
    assert not transport.executor.is_inline
    assert transport.moves == ["tiny"]
    # Once here, and never again.
    assert [is_here for is_here, _ in runs].count(True) == 1
    assert runs[0] == (True, [0, 1])
    # Those of the run that was stopped count their wait where they have run.
    assert round(transport.counters.queue_seconds / 1000) == len(jobs)


def test_closing_ends_the_thread_for_larger_jobs() -> None:
    transport = Transport()
    transport.close()

    assert not [one for one in threading.enumerate() if one.name.startswith("worker-tiny-1")]
    with pytest.raises(CallError):
        transport.submit(job(5))
