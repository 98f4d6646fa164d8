"""The threads of a version: they run what is submitted, as many at a time as they are."""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from tiny_models import EMBEDDER_WEIGHTS, embedder

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.queue import BatchPolicy
from forwardpass.wire import Array, Reason

from .jobs import PATIENCE, Background, KeepingJob, healthy, job, numbers, settle, watching

Start = Callable[..., ThreadExecutor]


class Held:
    """A model that gives its input back, but not before it is let go.

    Attributes:
        begun: Released for each run that has begun.
        go: Lets all runs go.
        runs: The numbers of the rows of each run.
    """

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.runs: list[list[int]] = []

    def __call__(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: object
    ) -> list[Array]:
        self.runs.append(inputs["x"][:, 0].tolist())
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return [inputs["x"]]


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def start(held: Held) -> Iterator[Start]:
    """Starts an executor, whose threads are ended after the test."""
    with ExitStack() as stack:

        def start(run: Any, **options: Any) -> ThreadExecutor:
            policy = BatchPolicy(options.pop("max_rows", 8), options.pop("max_jobs", 100))
            counters = options.pop("counters", None) or ModelCounters()
            options.setdefault("failure_detector", healthy())
            executor = ThreadExecutor("tiny-1", run, policy, counters, **options)
            stack.callback(lambda: Background(executor.close).result())
            stack.callback(held.go.set)
            return executor

        yield start


def test_what_is_submitted_is_run_on_a_thread_of_the_version(start: Start) -> None:
    session = Session(embedder().graph.SerializeToString(), {}, threads=1)
    counters = ModelCounters()
    executor = start(session.run, counters=counters)
    rng = np.random.default_rng(4)
    jobs = [
        KeepingJob(
            {"features": rng.normal(size=(rows, 4)).astype(np.float32)}, outputs=("embedding",)
        )
        for rows in (1, 3, 2)
    ]
    for one in jobs:
        executor.submit(one)
    for one in jobs:
        one.wait()
        np.testing.assert_allclose(
            one.answer.outputs["embedding"],
            one.inputs["features"] @ EMBEDDER_WEIGHTS,
            rtol=1e-5,
            atol=1e-5,
        )
        assert one.thread is not None
        assert one.thread.name == "worker-tiny-1-0"
    assert counters.rows == 6


def test_what_arrives_during_a_run_shares_the_next(held: Held, start: Start) -> None:
    executor = start(held)
    jobs = [job(first=number) for number in range(4)]
    executor.submit(jobs[0])
    assert held.begun.acquire(timeout=PATIENCE)
    for one in jobs[1:]:
        executor.submit(one)
    assert executor.waiting == 3

    held.go.set()
    for one in jobs:
        one.wait()
    assert held.runs == [[0], [1, 2, 3]]
    assert executor.waiting == 0
    assert [one.answer.outputs["y"].tolist() for one in jobs] == [
        numbers(number, 1).tolist() for number in range(4)
    ]


@pytest.mark.parametrize("instances", [1, 3])
def test_as_many_runs_are_under_way_as_there_are_instances(
    held: Held, start: Start, instances: int
) -> None:
    executor = start(held, max_rows=1, instances=instances)
    jobs = [job(first=number) for number in range(instances + 1)]
    for one in jobs:
        executor.submit(one)
    for _ in range(instances):
        assert held.begun.acquire(timeout=PATIENCE)
    assert executor.waiting == 1
    assert len(held.runs) == instances

    held.go.set()
    for one in jobs:
        one.wait()
    names = {f"worker-tiny-1-{index}" for index in range(instances)}
    assert {one.thread.name for one in jobs if one.thread is not None} <= names


def test_a_full_queue_refuses(held: Held, start: Start) -> None:
    executor = start(held, max_jobs=1)
    executor.submit(job())
    assert held.begun.acquire(timeout=PATIENCE)
    executor.check_room()
    executor.submit(job())

    for refused in (executor.check_room, lambda: executor.submit(job())):
        with pytest.raises(CallError) as caught:
            refused()
        assert caught.value.failure.reason == Reason.QUEUE_FULL


def test_a_job_whose_caller_goes_while_it_waits_is_not_run(held: Held, start: Start) -> None:
    counters = ModelCounters()
    executor = start(held, counters=counters)
    first, gone = job(first=0), job(first=1)
    executor.submit(first)
    assert held.begun.acquire(timeout=PATIENCE)
    executor.submit(gone)
    gone.abandon()
    held.go.set()
    gone.wait()

    assert isinstance(gone.error, CallError)
    assert held.runs == [[0]]
    assert counters.dropped["cancelled"].value == 1


def test_closing_runs_what_was_submitted_and_ends_the_threads(held: Held, start: Start) -> None:
    executor = start(held, max_rows=1, instances=2)
    jobs = [job(first=number) for number in range(5)]
    for one in jobs:
        executor.submit(one)
    closing = Background(executor.close)
    assert held.begun.acquire(timeout=PATIENCE)
    # Its runs are waited for.
    assert closing.running
    held.go.set()
    closing.result()

    assert [one.answer.rows for one in jobs] == [1] * 5
    assert not [one for one in threading.enumerate() if one.name.startswith("worker-tiny-1")]


def test_a_closed_executor_takes_no_job(start: Start) -> None:
    executor = start(lambda outputs, inputs, on_begin: [inputs["x"]])
    executor.close()

    with pytest.raises(CallError) as caught:
        executor.submit(job())
    assert caught.value.failure.reason == Reason.MODEL_NOT_FOUND


def test_a_run_that_fails_ends_no_thread_and_is_told(start: Start) -> None:
    tried = threading.Event()
    detector = FailureDetector(tried.set, lambda: None)

    def run(outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: object) -> list[Array]:
        if inputs["x"][0, 0] < 3:
            raise RuntimeError("broken")
        return [inputs["x"]]

    executor = start(run, failure_detector=detector)
    assert executor.failure_detector is detector
    for number in range(3):
        one = job(first=number)
        executor.submit(one)
        one.wait()
        assert str(one.error) == "broken"
    assert tried.is_set()

    good = job(first=3)
    executor.submit(good)
    good.wait()
    assert good.answer.rows == 1
    assert executor.is_alive


def test_closing_ends_the_watch_over_a_model_that_fails(start: Start) -> None:
    judged = threading.Event()

    def broken(*_: object) -> list[Array]:
        raise RuntimeError("broken")

    executor = start(broken, failure_detector=FailureDetector(broken, judged.set))
    one = job()
    executor.submit(one)
    one.wait()
    assert judged.wait(PATIENCE)
    assert watching()

    executor.close()
    settle()


def test_t102_an_executor_that_waits_holds_nothing_of_what_it_has_run(start: Start) -> None:
    def run(outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: object) -> list[Array]:
        return [inputs["x"] + 1]

    executor = start(run)

    def ask(*, is_lost: bool = False) -> weakref.ref[Array]:
        one = job()
        if is_lost:
            one.abandon()
        executor.submit(one)
        one.wait()
        return weakref.ref(one.inputs["x"])

    references = [ask(), ask(is_lost=True)]
    # Once it has taken the next one, it waits again, or is about to.
    ask()
    assert [reference() for reference in references] == [None, None]
    last = ask()
    # What it has just answered it drops as it goes to wait.
    while last() is not None:
        threading.Event().wait(0.01)
