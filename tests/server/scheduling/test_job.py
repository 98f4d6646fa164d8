"""A job, its part of a run, when it is of use no more, and who its run is stopped for."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardpass.server.scheduling.job import Answer, Outcome, Stop, group_of

from .jobs import FUTURE, PAST, Alike, Background, KeepingJob, job, numbers


def outcome(rows: int) -> Outcome:
    return Outcome({"y": numbers(0, rows), "z": np.arange(rows)}, rows, 0.5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_the_parts_of_a_run_are_all_of_its_rows_in_order(sizes: list[int]) -> None:
    run = outcome(sum(sizes))
    starts = np.cumsum([0, *sizes])
    answers = [
        Answer(run, int(start), rows, 0.0) for start, rows in zip(starts, sizes, strict=False)
    ]

    for name, array in run.outputs.items():
        parts = [answer.outputs[name] for answer in answers]
        assert [len(part) for part in parts] == sizes
        assert np.concatenate(parts).tolist() == array.tolist()
        assert all(np.shares_memory(part, array) for part in parts if part.size)


def test_a_part_is_as_a_run_that_its_job_had_alone() -> None:
    run = outcome(5)
    own = Answer(run, 2, 2, 0.0).own()

    assert own.rows == 2
    assert own.seconds == run.seconds
    assert own.outputs["y"].tolist() == numbers(2, 2).tolist()
    assert own.content("z") == np.array([2, 3]).tobytes()


def test_all_of_a_run_is_the_run_itself() -> None:
    run = outcome(3)
    answer = Answer(run, 0, 3, 0.0)

    assert answer.own() is run
    assert answer.outputs is run.outputs


def test_the_bytes_of_an_output_are_copied_once() -> None:
    run = outcome(3)

    for name in ("y", "z"):
        content = run.content(name)
        assert content == run.outputs[name].tobytes()
        assert run.content(name) is content


def test_bytes_are_told_row_by_row_however_the_array_lies() -> None:
    turned = numbers(0, 3).T
    run = Outcome({"y": turned}, 2, 0.0)

    assert run.content("y") == np.ascontiguousarray(turned).tobytes()


@settings(deadline=None)
@given(waiting=st.integers(0, 5), data=st.data())
def test_a_run_is_stopped_once_it_has_begun_and_all_have_left(
    waiting: int, data: st.DataObject
) -> None:
    begins_after = data.draw(st.integers(0, waiting), label="begins after")
    stop, left = Stop(waiting), 0
    stopped: list[int] = []
    while left < begins_after:
        stop.leave()
        left += 1
    assert not stopped
    stop.begin(lambda: stopped.append(left))
    assert len(stopped) == (left == waiting)
    while left < waiting:
        left += 1
        stop.leave()
        assert len(stopped) == (left == waiting)
    assert stopped == [waiting]


def test_a_run_is_stopped_with_no_lock_held() -> None:
    stop = Stop(1)
    stop.begin(stop.leave)
    Background(stop.leave).result()
    stop = Stop(0)
    Background(lambda: stop.begin(stop.leave)).result()


@pytest.mark.parametrize("first", ["abandon", "join"])
def test_who_leaves_is_missed_once_whether_before_the_run_or_during_it(first: str) -> None:
    stopped: list[None] = []
    stop = Stop(2)
    stop.begin(lambda: stopped.append(None))
    jobs = [job(), job()]
    for index, one in enumerate(jobs):
        assert not stopped
        assert not one.gone
        if first == "abandon":
            one.abandon()
            assert len(stopped) == 0
        one.join(stop)
        if first == "join":
            one.abandon()
        assert one.gone
        assert len(stopped) == index


def abandon(jobs: list[KeepingJob], together: threading.Barrier) -> None:
    together.wait()
    for one in jobs:
        one.abandon()


def test_who_leaves_while_the_run_is_joined_is_missed_once() -> None:
    for _ in range(50):
        jobs = [job() for _ in range(4)]
        stopped: list[None] = []
        # One more is there until all have left and been joined: too many leaves would stop it.
        stop = Stop(len(jobs) + 1)
        stop.begin(partial(stopped.append, None))
        together = threading.Barrier(2)
        leaving = Background(partial(abandon, jobs, together))
        together.wait()
        for one in jobs:
            one.join(stop)
        leaving.result()
        assert not stopped
        stop.leave()
        assert stopped == [None]


def test_a_job_that_joins_another_run_leaves_that_one() -> None:
    stopped: list[str] = []
    stops = {name: Stop(1) for name in ("first", "second")}
    one = job()
    for name, stop in stops.items():
        stop.begin(partial(stopped.append, name))
        one.join(stop)
    one.abandon()

    assert stopped == ["second"]


def test_a_job_of_no_run_can_be_abandoned() -> None:
    one = job()
    one.abandon()

    assert one.gone
    assert not one.given


@pytest.mark.parametrize(
    ("deadline", "expired"),
    [(None, False), (FUTURE, False), (PAST, True)],
    ids=["never", "later", "passed"],
)
def test_a_job_expires_at_its_deadline(deadline: float | None, expired: bool) -> None:
    assert job(deadline=deadline).expired is expired


def test_jobs_of_the_same_inputs_but_for_their_rows_may_share_a_run() -> None:
    assert job(1).may_share(job(4, first=7))


@pytest.mark.parametrize(
    "other",
    [
        job(width=3),
        job(outputs=("z",)),
        job(outputs=("y", "z")),
        job(alone=True),
        job(width=3, group=Alike()),
    ],
    ids=["shape", "output", "more-outputs", "alone", "shape-of-a-group"],
)
def test_others_may_not(other: KeepingJob) -> None:
    one = job()

    assert not one.may_share(other)
    assert not other.may_share(one)


def test_every_input_must_be_alike() -> None:
    def two(width: int) -> KeepingJob:
        return KeepingJob({"a": np.zeros((1, 2)), "b": np.zeros((1, width))})

    assert two(3).may_share(two(3))
    assert not two(3).may_share(two(4))


def test_jobs_of_a_group_may_share_a_run_and_those_of_two_if_they_are_alike() -> None:
    group = Alike()

    assert job(group=group).may_share(job(group=group))
    assert job(group=group).may_share(job(group=Alike()))
    assert job(group=group).may_share(job())
    assert not job(group=group).may_share(job(group=Alike(), outputs=("z",)))


class Unread(KeepingJob):
    """A job whose inputs may not be read."""

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        raise AssertionError("it is read")


def test_what_a_group_says_of_its_jobs_is_not_looked_up_in_their_inputs() -> None:
    group = Alike()
    one, other = (Unread({}, rows=1, group=group) for _ in range(2))

    assert one.may_share(other)


def test_jobs_have_a_group_where_all_of_them_are_of_it() -> None:
    group, other = Alike(), Alike()
    of_group = [job(group=group) for _ in range(3)]

    assert group_of(of_group) is group
    assert group_of(of_group[:1]) is group
    assert group_of([*of_group, job(group=other)]) is None
    assert group_of([*of_group, job()]) is None
    assert group_of([job(), *of_group]) is None
    assert group_of([job(), job()]) is None


def test_a_job_is_of_use_until_its_deadline_or_its_timeout_whichever_is_earlier() -> None:
    assert job().deadline is None
    assert job(deadline=FUTURE).deadline == FUTURE
    assert job(deadline=PAST, timeout=10.0).deadline == PAST
    for deadline in (None, FUTURE):
        before = time.monotonic()
        one = job(deadline=deadline, timeout=10.0)
        assert one.times_out
        assert one.deadline is not None
        assert before + 10 <= one.deadline <= time.monotonic() + 10
