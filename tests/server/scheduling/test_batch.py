"""One run for several jobs: what is joined, what each gets back, and what follows a failure."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_models import (
    EMBEDDER_WEIGHTS,
    TinyModel,
    busy,
    echo,
    embedder,
    model,
    picker,
)

from forwardpass.server.aligned import Aligned
from forwardpass.server.errors import InvalidInput, RunError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.onnx.session import Session
from forwardpass.server.scheduling.batch import check_rows, collate, run_batch
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.job import Outcome
from forwardpass.wire import Array

from .jobs import PATIENCE, Alike, Background, KeepingJob, healthy, job, numbers

OnBegin = Callable[[Callable[[], None]], None] | None
OUTPUTS = ("negated", "firsts")
# What becomes of a job: it is answered, its caller is at fault, or the model is.
FATES = ("answered", "refused", "broken")


class Model:
    """A model of two outputs, which fails on the jobs it is told to fail on.

    Attributes:
        fates: What rows come to, by the number of the row; they are answered by default.
        runs: The numbers of the rows of each run.
        threads: On which thread each run was.
        stoppable: Whether each run was told how to have itself stopped.
    """

    def __init__(self, fates: Mapping[int, str] | None = None) -> None:
        self.fates = fates or {}
        self.runs: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.stoppable: list[bool] = []

    def __call__(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: OnBegin
    ) -> list[Array]:
        rows = inputs["x"]
        self.runs.append(rows[:, 0].tolist())
        self.threads.append(threading.current_thread())
        self.stoppable.append(on_begin is not None)
        for number in self.runs[-1]:
            if self.fates.get(number) == "refused":
                raise InvalidInput(f"row {number} is wrong")
            if self.fates.get(number) == "broken":
                raise RuntimeError(f"row {number} fails")
        given = {"negated": -rows, "firsts": rows[:, 0]}
        return [given[name] for name in outputs]


class Failures(FailureDetector):
    """A detector whose model computes, and how many failures it has been told of."""

    def __init__(self) -> None:
        super().__init__(lambda: None, lambda: None)
        self.told = 0

    def failed(self) -> bool:
        self.told += 1
        return super().failed()


def session_of(tiny: TinyModel) -> Session:
    return Session(tiny.graph.SerializeToString(), {}, threads=1)


@pytest.fixture(scope="module")
def embedding() -> Session:
    return session_of(embedder())


def answer(run: Any, jobs: Sequence[KeepingJob], **options: Any) -> ModelCounters:
    """Runs the jobs as one batch and returns what was counted."""
    counters = ModelCounters()
    run_batch(run, jobs, counters, healthy(), **options)
    return counters


@settings(deadline=None, max_examples=200)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(FATES), st.booleans()), min_size=1, max_size=8
    ),
    failures=st.booleans(),
    grouped=st.booleans(),
    on_transport=st.booleans(),
)
def test_each_job_gets_its_own_rows_or_its_own_failure_once(
    plan: list[tuple[int, str, bool]],
    failures: bool,
    grouped: bool,
    on_transport: bool,
) -> None:
    group = Alike() if grouped else None
    jobs: list[KeepingJob] = []
    fates: dict[int, str] = {}
    first = 0
    for rows, fate, last in plan:
        # Jobs of a group have as many rows as one another.
        size = plan[0][0] if grouped else rows
        if failures and size:
            # The row at fault is its first or its last.
            fates[first + (size - 1 if last else 0)] = fate
        jobs.append(job(size, first, outputs=OUTPUTS, group=group))
        first += size
    run = Model(fates)
    counters = answer(run, jobs, on_transport=on_transport)

    total = sum(one.rows for one in jobs)
    failing = [one for one in jobs if fate_of(one, fates) != "answered"]
    # All of them together; and each alone, where that fails.
    own = [numbers_of(one) for one in jobs]
    together = list(range(total))
    assert run.runs == ([together, *own] if failing and len(jobs) > 1 else [together])
    assert run.threads == [threading.current_thread()] * len(run.runs)
    assert run.stoppable == [not on_transport] * len(run.runs)
    for one in jobs:
        if one in failing:
            kind = InvalidInput if fate_of(one, fates) == "refused" else RuntimeError
            assert isinstance(one.error, kind)
            assert any(str(one.error).startswith(f"row {n} ") for n in numbers_of(one))
            continue
        outputs = one.answer.outputs
        assert list(outputs) == list(OUTPUTS)
        assert outputs["negated"].tolist() == (-one.inputs["x"]).tolist()
        assert outputs["firsts"].tolist() == numbers_of(one)
        assert one.answer.run.rows == (one.rows if failing else total)
        assert one.answer.queue_seconds >= 0
    answered = [one for one in jobs if one not in failing]
    assert counters.rows == sum(one.rows for one in answered)
    assert counters.runs == (len(answered) if failing else 1)
    assert counters.phase_totals()["queue"][0] == len(answered)


def fate_of(one: KeepingJob, fates: Mapping[int, str]) -> str:
    return next((fates[n] for n in numbers_of(one) if fates.get(n) in FATES[1:]), "answered")


def numbers_of(one: KeepingJob) -> list[int]:
    found: list[int] = one.inputs["x"][:, 0].tolist()
    return found


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_a_real_graph_answers_each_job_as_if_it_had_run_alone(
    embedding: Session, sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    jobs = [
        KeepingJob(
            {"features": rng.normal(size=(rows, 4)).astype(np.float32)}, outputs=("embedding",)
        )
        for rows in sizes
    ]
    answer(embedding.run, jobs)

    for one in jobs:
        np.testing.assert_allclose(
            one.answer.outputs["embedding"],
            one.inputs["features"] @ EMBEDDER_WEIGHTS,
            rtol=1e-5,
            atol=1e-5,
        )
        assert one.answer.run.rows == sum(sizes)


def test_who_makes_a_run_of_a_real_graph_fail_fails_alone() -> None:
    jobs = [
        KeepingJob({"index": np.array(index)}, outputs=("value",)) for index in ([2, 0], [9], [3])
    ]
    counters = answer(session_of(picker()).run, jobs)

    assert jobs[0].answer.outputs["value"].tolist() == [2, 0]
    assert isinstance(jobs[1].error, InvalidInput)
    assert jobs[2].answer.outputs["value"].tolist() == [3]
    # The run of all of them is not counted, as it answered nobody.
    assert (counters.runs, counters.rows) == (2, 3)


def test_a_graph_that_does_not_keep_rows_apart_answers_one_job_at_a_time() -> None:
    summing = TinyModel(
        model(
            [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
            [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 2])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, [1, 2])],
            {"axes": np.array([0])},
        )
    )
    jobs = [job(2, first=0), job(3, first=2)]
    counters = answer(session_of(summing).run, jobs)

    for one in jobs:
        assert one.answer.outputs["y"].tolist() == [one.inputs["x"].sum(axis=0).tolist()]
        assert one.answer.run.rows == one.rows
    assert counters.rows == 5


def test_a_job_that_runs_alone_may_be_answered_with_any_shape() -> None:
    one = KeepingJob({"x": np.array(7.0, np.float32)}, rows=1)
    answer(session_of(echo(TensorProto.FLOAT, [])).run, [one])

    assert one.answer.outputs["y"].shape == ()
    assert one.answer.outputs["y"] == 7


def test_a_run_that_gives_too_few_outputs_fails() -> None:
    one = job(outputs=("y", "z"))
    answer(lambda outputs, inputs, on_begin: [inputs["x"]], [one])

    assert isinstance(one.error, ValueError)


@pytest.mark.parametrize(
    ("fates", "told"),
    [
        (["answered"], 0),
        (["refused"], 0),
        (["broken"], 1),
        # Of a batch that fails, the runs of single jobs are what counts.
        (["broken", "broken", "broken"], 3),
        (["answered", "broken", "broken"], 2),
        (["broken", "broken", "answered"], 2),
        # Who is to blame is no sign that the model computes.
        (["broken", "refused"], 1),
    ],
)
def test_a_failure_is_told_unless_the_request_is_to_blame(fates: list[str], told: int) -> None:
    failures = Failures()
    jobs = [job(first=number, outputs=OUTPUTS) for number in range(len(fates))]
    run_batch(Model(dict(enumerate(fates))), jobs, ModelCounters(), failures)

    assert failures.told == told


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_failed_run_is_blamed_on_its_values_unless_the_model_is_at_fault(is_ours: bool) -> None:
    def probe() -> None:
        if is_ours:
            raise RuntimeError("broken")

    def fails(*_: Any, **__: Any) -> list[Array]:
        raise RunError("Concat: dimensions must match")

    detector = FailureDetector(probe, lambda: None)
    one = job(outputs=OUTPUTS)
    run_batch(fails, [one], ModelCounters(), detector)
    detector.close()
    if is_ours:
        assert isinstance(one.error, RunError)
    else:
        assert isinstance(one.error, InvalidInput)
        assert str(one.error) == "the model refuses the values: Concat: dimensions must match"


def test_a_job_nobody_waits_for_raises_no_question() -> None:
    failures = Failures()
    one = job(outputs=OUTPUTS)
    one.abandon()
    run_batch(Model({0: "broken"}), [one], ModelCounters(), failures)
    assert failures.told == 0


class Leaving:
    """A run during which callers leave, until it is stopped.

    Args:
        leaving: The jobs whose callers leave, one after the other.

    Attributes:
        stopped: After how many had left the run was told to stop, each time.
        runs: How many runs there were.
    """

    def __init__(self, leaving: Sequence[KeepingJob]) -> None:
        self._leaving = leaving
        self._left = 0
        self.stopped: list[int] = []
        self.runs = 0

    def __call__(
        self, outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: OnBegin
    ) -> list[Array]:
        self.runs += 1
        if self.runs == 1:
            assert on_begin is not None
            on_begin(lambda: self.stopped.append(self._left))
            for one in self._leaving:
                self._left += 1
                one.abandon()
            raise RuntimeError("stopped, or failed")
        return [inputs["x"]]


def test_a_run_is_stopped_once_all_have_gone_and_none_of_them_is_run_again() -> None:
    failures = Failures()
    jobs = [job(), job(), job()]
    run = Leaving(jobs)
    run_batch(run, jobs, ModelCounters(), failures)

    assert run.stopped == [3]
    assert run.runs == 1
    assert [str(one.error) for one in jobs] == ["stopped, or failed"] * 3
    assert failures.told == 0


@pytest.mark.parametrize(
    ("fates", "is_left"),
    [
        (["answered"], False),
        (["broken"], False),
        (["answered", "answered", "answered"], False),
        # All are run again, each alone.
        (["answered", "broken", "refused"], False),
        # None is.
        (["answered", "answered", "answered"], True),
    ],
)
def test_a_job_counts_its_wait_once_whatever_becomes_of_it(fates: list[str], is_left: bool) -> None:
    before = time.perf_counter() - 1000
    jobs = [job(first=number, outputs=OUTPUTS, submitted=before) for number in range(len(fates))]
    counters = answer(Leaving(jobs) if is_left else Model(dict(enumerate(fates))), jobs)

    assert all(one.given for one in jobs)
    assert round(counters.queue_seconds / 1000) == len(jobs)


def test_a_run_in_vain_counts_as_time_that_the_model_was_busy() -> None:
    counters = answer(Model({0: "broken"}), [job(outputs=OUTPUTS)])
    alone = counters.busy_seconds
    assert (counters.runs, alone > 0) == (0, True)
    # Outputs that cannot be shared out were computed, too.
    jobs = [job(first=0), job(first=1)]
    counters = answer(lambda *_: [numbers(0, 1)], jobs)
    assert (counters.runs, counters.busy_seconds > 0) == (2, True)
    # All runs have ended: it stands still.
    assert counters.busy_seconds == counters.busy_seconds


def test_a_run_goes_on_for_the_one_who_stays() -> None:
    failures = Failures()
    jobs = [job(first=0), job(first=1), job(first=2)]
    run = Leaving(jobs[:2])
    run_batch(run, jobs, ModelCounters(), failures)

    assert run.stopped == []
    # Where it fails, nobody else is tried.
    assert run.runs == 2
    assert [str(one.error) for one in jobs[:2]] == ["stopped, or failed"] * 2
    assert jobs[2].answer.outputs["y"].tolist() == numbers(2, 1).tolist()
    assert failures.told == 0


def test_a_failure_that_nobody_waits_for_says_nothing_of_the_model() -> None:
    failures = Failures()
    one = job()
    run_batch(Leaving([one]), [one], ModelCounters(), failures)

    assert isinstance(one.error, RuntimeError)
    assert failures.told == 0


def test_a_run_that_begins_when_all_have_gone_is_stopped_at_once() -> None:
    jobs = [job(), job()]
    for one in jobs:
        one.abandon()
    run = Leaving([])
    answer(run, jobs)

    assert run.stopped == [0]
    assert run.runs == 1


def test_a_run_of_a_real_graph_stops_when_its_caller_leaves() -> None:
    session = session_of(busy())
    begun = threading.Event()

    def run(outputs: Sequence[str], inputs: Mapping[str, Array], on_begin: OnBegin) -> list[Array]:
        def begin(stop: Callable[[], None]) -> None:
            assert on_begin is not None
            on_begin(stop)
            begun.set()

        return session.run(outputs, inputs, begin)

    failures = Failures()
    one = KeepingJob({"steps": np.array(10**9)}, rows=1, outputs=("size",))
    running = Background(lambda: run_batch(run, [one], ModelCounters(), failures))
    try:
        assert begun.wait(PATIENCE)
    finally:
        one.abandon()
    running.result()

    assert "terminate flag" in str(one.error)
    assert failures.told == 0


def test_jobs_alike_are_answered_together_on_the_transports_thread_only() -> None:
    group = Alike()
    jobs = [job(2, first, outputs=OUTPUTS, group=group) for first in (0, 2)]
    answer(Model(), jobs, on_transport=True)
    ((together, run),) = group.answers
    assert together == jobs
    assert run is jobs[0].answer.run

    answer(Model(), jobs)
    assert len(group.answers) == 1
    assert [len(one.given) for one in jobs] == [2, 2]


def test_jobs_of_different_groups_are_answered_one_by_one() -> None:
    groups = [Alike(), Alike()]
    jobs = [job(1, first, outputs=OUTPUTS, group=group) for first, group in enumerate(groups)]
    answer(Model(), jobs, on_transport=True)

    assert [one.answer.outputs["firsts"].tolist() for one in jobs] == [[0], [1]]
    assert [group.answers for group in groups] == [[], []]


def test_a_job_alone_is_given_its_own_arrays_and_not_copies() -> None:
    one = job()

    assert collate([one], None) is one.inputs


def test_every_input_is_joined_in_the_order_of_the_jobs() -> None:
    jobs = [
        KeepingJob({"a": numbers(first, rows), "b": np.full(rows, first)})
        for first, rows in ((0, 2), (2, 1), (3, 3))
    ]
    joined = collate(jobs, None)

    assert isinstance(joined, Aligned)
    assert list(joined) == ["a", "b"]
    assert joined["a"].tolist() == numbers(0, 6).tolist()
    assert joined["b"].tolist() == [0, 0, 2, 3, 3, 3]


def test_a_group_joins_its_own_jobs_be_it_one() -> None:
    group = Alike()
    jobs = [job(group=group), job(group=group)]
    collate(jobs, group)
    collate(jobs[:1], group)

    assert group.gathered == [jobs, jobs[:1]]


def test_outputs_with_a_row_for_each_row_can_be_shared_out() -> None:
    check_rows({"vector": np.zeros(3), "matrix": np.zeros((3, 0))}, 3)


@pytest.mark.parametrize("shape", [(), (2,), (4, 3), (1, 3)])
def test_an_output_of_another_number_of_rows_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^output 'odd' has shape .* for 3 rows$"):
        check_rows({"even": np.zeros(3), "odd": np.zeros(shape)}, 3)


def test_how_long_a_job_waited_is_told_with_its_answer_and_counted() -> None:
    jobs = [job(submitted=0.0, outputs=OUTPUTS), job(first=1, outputs=OUTPUTS)]
    counters = answer(Model(), jobs)

    waited = [one.answer.queue_seconds for one in jobs]
    assert waited[0] - waited[1] == pytest.approx(jobs[1].submitted)
    count, seconds = counters.phase_totals()["queue"]
    assert count == 2
    assert seconds == pytest.approx(sum(waited))
    run: Outcome = jobs[0].answer.run
    assert counters.batches() == [(2, 1, run.seconds)]
