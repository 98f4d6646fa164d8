"""Jobs that wait: which run together, which are dropped, who is refused, who is woken."""

import random
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.queue import BatchPolicy, JobQueue, WaitList
from forwardpass.wire import Reason

from .jobs import DAY, FUTURE, PAST, PATIENCE, Alike, Background, KeepingJob, job

# What a job must have in common with others to share their run: width of a row, and outputs.
KINDS = ((2, ("y",)), (3, ("y",)), (2, ("z",)))


def wait_list(max_rows: int = 8, max_jobs: int = 2000, priorities: int = 1) -> WaitList:
    return WaitList(BatchPolicy(max_rows, max_jobs, priorities), ModelCounters())


def job_queue(max_rows: int = 8, max_jobs: int = 100, delay: float = 0.0) -> JobQueue:
    return JobQueue(BatchPolicy(max_rows, max_jobs, delay=delay), ModelCounters())


def dropped(counters: ModelCounters) -> dict[Reason, int]:
    return {
        Reason.CANCELLED: counters.dropped["cancelled"].value,
        Reason.DEADLINE_EXCEEDED: counters.dropped["expired"].value,
    }


def reason_of(lost: KeepingJob) -> Reason:
    error = lost.error
    assert isinstance(error, CallError)
    reason = error.failure.reason
    assert isinstance(reason, Reason)
    return reason


@dataclass
class Description:
    """What a job is like; its kind is one of `KINDS`."""

    rows: int
    priority: int
    kind: int
    alone: bool
    grouped: bool
    deadline: float | None


# Most of them are alike and of use, or hardly any would share a run.
DESCRIPTIONS = st.builds(
    Description,
    rows=st.integers(0, 9),
    priority=st.integers(0, 4),
    kind=st.sampled_from([0, 0, 0, 1, 2]),
    alone=st.sampled_from([False] * 7 + [True]),
    grouped=st.booleans(),
    deadline=st.sampled_from([None, None, None, FUTURE, FUTURE, PAST]),
)


@dataclass(eq=False)
class Entry:
    """What the plain list knows of a job; the kind is None where it must be alone."""

    job: KeepingJob
    level: int
    kind: int | None
    expired: bool
    gone: bool = False

    @property
    def lost(self) -> bool:
        return self.gone or self.expired

    @property
    def reason(self) -> Reason:
        return Reason.DEADLINE_EXCEEDED if self.expired else Reason.CANCELLED

    def shares(self, other: "Entry") -> bool:
        return self.kind is not None and self.kind == other.kind


class AsPlainList(RuleBasedStateMachine):
    """A wait list beside a plain list that is read from the front, sorted by priority."""

    @initialize(
        max_rows=st.integers(1, 8), max_jobs=st.integers(1, 20), priorities=st.integers(1, 3)
    )
    def begin(self, max_rows: int, max_jobs: int, priorities: int) -> None:
        self.policy = BatchPolicy(max_rows, max_jobs, priorities)
        self.counters = ModelCounters()
        self.list = WaitList(self.policy, self.counters)
        self.groups = [Alike() for _ in KINDS]
        self.waiting: list[Entry] = []
        self.lost: list[Entry] = []
        self.taken: list[Entry] = []

    @rule(descriptions=st.lists(DESCRIPTIONS, min_size=1, max_size=6))
    def put(self, descriptions: list[Description]) -> None:
        for one in descriptions:
            width, outputs = KINDS[one.kind]
            new = job(
                one.rows,
                width=width,
                outputs=outputs,
                priority=one.priority,
                deadline=one.deadline,
                alone=one.alone,
                group=self.groups[one.kind] if one.grouped and not one.alone else None,
            )
            if self._has_room():
                self.list.put(new)
                level = min(one.priority, self.policy.priorities - 1)
                kind = None if one.alone else one.kind
                self.waiting.append(Entry(new, level, kind, expired=one.deadline == PAST))
                # Those of one level stay in the order of their arrival.
                self.waiting.sort(key=lambda entry: entry.level)
            else:
                with pytest.raises(CallError) as caught:
                    self.list.put(new)
                self._check_refusal(caught.value)
                assert not new.given

    @rule()
    def ask_for_room(self) -> None:
        if self._has_room():
            self.list.check_room()
        else:
            with pytest.raises(CallError) as caught:
                self.list.check_room()
            self._check_refusal(caught.value)

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 19))
    def leave(self, index: int) -> None:
        entry = self.waiting[index % len(self.waiting)]
        if not entry.gone:
            entry.job.abandon()
        entry.gone = True

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 19))
    def pass_the_deadline(self, index: int) -> None:
        entry = self.waiting[index % len(self.waiting)]
        entry.job.deadline = PAST
        entry.expired = True

    @rule()
    def gather(self) -> None:
        taken: list[Entry] = []
        lost: list[Entry] = []
        rows = 0
        for entry in self.waiting:
            if taken and rows >= self.policy.max_rows:
                break
            if entry.lost:
                lost.append(entry)
            elif not taken or (
                entry.shares(taken[0]) and rows + entry.job.rows <= self.policy.max_rows
            ):
                taken.append(entry)
                rows += entry.job.rows
        self.waiting = [entry for entry in self.waiting if entry not in (*taken, *lost)]
        self.taken += taken
        self.lost += lost

        jobs, to_drop = self.list.gather()
        assert jobs == [entry.job for entry in taken]
        assert to_drop == [(entry.job, entry.reason) for entry in lost]
        assert len(jobs) <= 1 or sum(one.rows for one in jobs) <= self.policy.max_rows
        assert not any(entry.job.given for entry in lost)
        for one, reason in to_drop:
            self.list.drop(one, reason)

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.list.count == len(self.waiting)
        assert self.list.rows() == sum(entry.job.rows for entry in self.waiting)
        if self.waiting:
            jobs = [entry.job for entry in self.waiting]
            assert self.list.oldest() is min(jobs, key=lambda job: job.submitted)

    @invariant()
    def what_is_dropped_is_told_once_and_counted(self) -> None:
        expected = {Reason.CANCELLED: 0, Reason.DEADLINE_EXCEEDED: 0}
        for entry in self.lost:
            assert reason_of(entry.job) == entry.reason
            expected[entry.reason] += 1
        assert dropped(self.counters) == expected

    @invariant()
    def nobody_else_is_told_anything(self) -> None:
        assert not any(entry.job.given for entry in (*self.waiting, *self.taken))

    def _has_room(self) -> bool:
        """Whether a job will be taken in: where the list is full, those who have gone make room."""
        if len(self.waiting) >= self.policy.max_jobs:
            self.lost += [entry for entry in self.waiting if entry.gone]
            self.waiting = [entry for entry in self.waiting if not entry.gone]
        return len(self.waiting) < self.policy.max_jobs

    def _check_refusal(self, error: CallError) -> None:
        assert error.failure.reason == Reason.QUEUE_FULL
        assert error.failure.metadata == {"waiting": str(len(self.waiting))}
        assert error.failure.retry_after


def test_a_wait_list_does_what_a_plain_list_sorted_by_priority_would() -> None:
    run_state_machine_as_test(
        AsPlainList,
        settings=settings(deadline=None, max_examples=120, stateful_step_count=40),
    )


def test_a_job_larger_than_a_run_may_be_runs_alone() -> None:
    waiting = wait_list(max_rows=4)
    small, large = job(1), job(5)
    for one in (large, small):
        waiting.put(one)

    assert waiting.gather() == ([large], [])
    assert waiting.gather() == ([small], [])


def test_a_run_is_filled_to_the_last_row() -> None:
    waiting = wait_list(max_rows=4)
    jobs = [job(1), job(3), job(1)]
    for one in jobs:
        waiting.put(one)

    assert waiting.gather() == (jobs[:2], [])
    assert waiting.gather() == (jobs[2:], [])


def test_jobs_of_a_later_priority_fill_what_the_first_leaves_of_a_run() -> None:
    waiting = wait_list(max_rows=2, priorities=2)
    late, first, later = job(priority=1), job(priority=0), job(priority=1)
    for one in (late, first, later):
        waiting.put(one)

    assert waiting.gather() == ([first, late], [])
    assert waiting.gather() == ([later], [])


def test_a_priority_beyond_the_last_is_the_last() -> None:
    waiting = wait_list(max_rows=1, priorities=2)
    jobs = [job(priority=7), job(priority=1), job(priority=0)]
    for one in jobs:
        waiting.put(one)

    assert [waiting.gather()[0] for _ in jobs] == [[jobs[2]], [jobs[0]], [jobs[1]]]


@pytest.mark.parametrize(("between", "joins"), [(10, True), (1000, False)])
def test_only_so_many_are_looked_over_and_they_keep_their_places(between: int, joins: bool) -> None:
    waiting = wait_list(max_rows=2)
    first, last = job(width=3), job(width=3)
    others = [job(2) for _ in range(between)]
    for one in (first, *others, last):
        waiting.put(one)

    assert waiting.gather() == ([first, last] if joins else [first], [])
    for one in others:
        assert waiting.gather() == ([one], [])
    assert waiting.gather() == ([] if joins else [last], [])
    assert waiting.count == 0


def test_a_caller_who_is_past_the_deadline_and_gone_was_too_late() -> None:
    waiting = wait_list()
    late = job(deadline=PAST)
    late.abandon()
    waiting.put(late)

    assert waiting.gather() == ([], [(late, Reason.DEADLINE_EXCEEDED)])


def test_an_expired_job_holds_its_place_in_a_full_queue_until_its_turn() -> None:
    waiting = wait_list(max_jobs=1)
    late = job(deadline=PAST)
    waiting.put(late)

    with pytest.raises(CallError, match="1 requests wait for the model"):
        waiting.put(job())
    assert not late.given


def test_nobody_is_asked_to_go_while_there_is_room() -> None:
    waiting = wait_list(max_jobs=2)
    gone = job()
    waiting.put(gone)
    gone.abandon()

    waiting.check_room()
    waiting.put(job())
    assert not gone.given
    assert waiting.count == 2


def test_a_queue_gives_what_was_put() -> None:
    queue = job_queue()
    jobs = [job(), job()]
    for one in jobs:
        queue.put(one)
    assert queue.waiting == 2

    assert queue.take() == jobs
    assert queue.waiting == 0


def test_who_takes_waits_until_somebody_puts() -> None:
    queue = job_queue()
    taking = Background(queue.take)
    one = job()
    queue.put(one)

    assert taking.result() == [one]


def test_a_job_is_told_of_its_timeout_while_nobody_takes_any() -> None:
    queue = job_queue()
    patient, hasty, unlimited = job(timeout=DAY), job(timeout=0.01), job()
    for one in (patient, unlimited, hasty):
        queue.put(one)
    hasty.wait()

    assert isinstance(hasty.error, CallError)
    assert hasty.error.failure.reason == Reason.DEADLINE_EXCEEDED
    assert "default_timeout_microseconds" in hasty.error.failure.message
    assert queue.waiting == 2
    assert queue.take() == [patient, unlimited]
    queue.close()


def test_a_later_job_may_time_out_first() -> None:
    queue = job_queue()
    for timeout in (DAY, 0.02, 0.01):
        one = job(timeout=timeout)
        queue.put(one)
        if timeout < DAY:
            one.wait()
            assert isinstance(one.error, CallError)
    queue.close()


class Fatal(KeepingJob):
    """A job that ends the thread which tells it of its failure."""

    __slots__ = ()

    def failed(self, error: Exception) -> None:
        sys.exit()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_that_nobody_tells_jobs_of_their_timeouts_any_more_is_noticed() -> None:
    queue = job_queue()
    assert queue.is_alive
    queue.put(Fatal({"x": np.zeros((1, 1), np.float32)}, timeout=DAY))
    assert queue.is_alive
    (timer,) = (thread for thread in threading.enumerate() if thread.name == "timeouts")

    queue.put(Fatal({"x": np.zeros((1, 1), np.float32)}, timeout=0.01))
    timer.join(PATIENCE)

    assert not queue.is_alive
    queue.close()


def test_a_full_queue_refuses_before_and_at_the_put() -> None:
    queue = job_queue(max_jobs=1)
    queue.check_room()
    queue.put(job())

    for refused in (queue.check_room, lambda: queue.put(job())):
        with pytest.raises(CallError) as caught:
            refused()
        assert caught.value.failure.reason == Reason.QUEUE_FULL
    queue.take()
    queue.check_room()


def test_who_has_gone_is_dropped_and_who_takes_goes_on_waiting() -> None:
    queue = job_queue()
    gone, late, good = job(), job(deadline=PAST), job()
    gone.abandon()
    queue.put(gone)
    queue.put(late)
    taking = Background(queue.take)
    for lost, reason in ((gone, Reason.CANCELLED), (late, Reason.DEADLINE_EXCEEDED)):
        lost.wait()
        assert reason_of(lost) == reason

    queue.put(good)
    assert taking.result() == [good]


def test_who_goes_leaves_the_queue_at_once() -> None:
    """Behind a long run a job would keep its call, with a stream of the connection."""
    counters = ModelCounters()
    queue = JobQueue(BatchPolicy(8, 100), counters)
    waiting = [job(1) for _ in range(3)]
    for one in waiting:
        queue.put(one)
    waiting[1].abandon()
    assert queue.waiting == 2
    assert reason_of(waiting[1]) is Reason.CANCELLED
    assert dropped(counters)[Reason.CANCELLED] == 1
    # Of one that has been taken the queue knows nothing more.
    taken = queue.take()
    assert taken == [waiting[0], waiting[2]]
    taken[0].abandon()
    assert queue.waiting == 0
    assert dropped(counters)[Reason.CANCELLED] == 1


def test_jobs_that_are_dropped_count_how_long_they_waited() -> None:
    """Under overload they are most of those that wait."""
    counters = ModelCounters()
    queue = JobQueue(BatchPolicy(8, 100), counters)
    before = time.perf_counter() - 1000
    gone, late = (job(submitted=before, deadline=deadline) for deadline in (None, PAST))
    for one in (gone, late, job(submitted=before)):
        queue.put(one)
    gone.abandon()
    queue.take()
    assert [len(one.given) for one in (gone, late)] == [1, 1]
    # Of the one that was taken its run tells.
    assert round(counters.queue_seconds / 1000) == 2


def test_after_closing_what_waits_can_be_taken_and_then_nothing() -> None:
    queue = job_queue(max_rows=1)
    jobs = [job(), job()]
    for one in jobs:
        queue.put(one)
    queue.close()

    assert Background(queue.take).result() == jobs[:1]
    assert Background(queue.take).result() == jobs[1:]
    assert Background(queue.take).result() == []


def test_a_closed_queue_takes_no_job() -> None:
    queue = job_queue()
    queue.close()

    with pytest.raises(CallError) as caught:
        queue.put(job())
    assert caught.value.failure.reason == Reason.MODEL_NOT_FOUND
    assert caught.value.failure.field == "model"
    assert queue.waiting == 0


def test_closing_wakes_everybody_who_waits() -> None:
    queue = job_queue()
    taking = [Background(queue.take) for _ in range(3)]
    queue.close()

    assert [one.result() for one in taking] == [[], [], []]


def test_a_run_that_is_not_full_waits_for_others() -> None:
    queue = job_queue(max_rows=2, delay=DAY)
    jobs = [job(), job()]
    queue.put(jobs[0])
    # It finds the first one alone.
    taking = Background(queue.take)
    assert taking.running
    queue.put(jobs[1])

    assert taking.result() == jobs


def test_a_run_that_is_full_waits_for_nobody() -> None:
    queue = job_queue(max_rows=2, delay=DAY)
    one = job(2)
    queue.put(one)

    assert Background(queue.take).result() == [one]


def test_a_job_that_has_waited_its_delay_waits_no_longer() -> None:
    queue = job_queue(max_rows=2, delay=DAY)
    one = job()
    one.submitted -= 2 * DAY
    queue.put(one)

    assert Background(queue.take).result() == [one]


def test_a_delay_that_passes_ends_the_wait_for_others() -> None:
    queue = job_queue(max_rows=2, delay=DAY)
    one = job()
    # What is left of the delay is as good as nothing.
    one.submitted -= DAY - 0.01
    queue.put(one)

    assert Background(queue.take).result() == [one]


def test_a_job_that_has_waited_its_delay_is_not_made_to_wait_by_one_of_higher_priority() -> None:
    queue = JobQueue(BatchPolicy(max_rows=3, max_jobs=9, priorities=2, delay=DAY), ModelCounters())
    old, new = job(priority=1), job(priority=0)
    old.submitted -= 2 * DAY
    queue.put(old)
    queue.put(new)
    taking = Background(queue.take)
    try:
        assert taking.result() == [new, old]
    finally:
        queue.close()


def test_nobody_waits_for_others_once_the_queue_is_closed() -> None:
    queue = job_queue(max_rows=2, delay=DAY)
    one = job()
    queue.put(one)
    taking = Background(queue.take)
    queue.close()

    assert taking.result() == [one]
    # Nor does one who comes later.
    queue = job_queue(max_rows=2, delay=DAY)
    queue.put(one)
    queue.close()
    assert Background(queue.take).result() == [one]


def test_of_many_who_take_each_job_comes_to_one() -> None:
    queue = job_queue(max_rows=4, max_jobs=1000)
    jobs = [job(rows) for rows in random.Random(3).choices(range(1, 6), k=400)]

    def take_all() -> list[Job]:
        taken: list[Job] = []
        while run := queue.take():
            assert len(run) == 1 or sum(one.rows for one in run) <= 4
            taken += run
        return taken

    def put_all(share: list[KeepingJob]) -> None:
        together.wait()
        for one in share:
            queue.put(one)

    together = threading.Barrier(2)
    taking = [Background(take_all) for _ in range(3)]
    putting = [Background(partial(put_all, share)) for share in (jobs[::2], jobs[1::2])]
    for one in putting:
        one.result()
    queue.close()
    taken = [one for taker in taking for one in taker.result()]

    assert len(taken) == len(jobs)
    assert set(taken) == set(jobs)
    assert queue.waiting == 0
