"""What the server holds at a time: how many calls, how many bytes, and until when."""

import random
import threading
import time
from functools import partial

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
from forwardpass.server.scheduling.admission import RETRY_AFTER, Admission
from forwardpass.wire import Failure, Reason

from .jobs import DAY, PATIENCE, Background


def refusal(admission: Admission, size: int = 1) -> Failure:
    with pytest.raises(CallError) as caught:
        admission.enter(size)
    assert caught.value.failure.retry_after == RETRY_AFTER
    return caught.value.failure


class AsListOfSizes(RuleBasedStateMachine):
    """An admission beside a list of the sizes of the calls that are in."""

    @initialize(max_calls=st.integers(1, 5), max_bytes=st.integers(1, 20))
    def begin(self, max_calls: int, max_bytes: int) -> None:
        self.admission = Admission(max_calls, max_bytes)
        self.max_calls, self.max_bytes = max_calls, max_bytes
        self.inside: list[int] = []
        self.closed = False

    @rule(size=st.integers(0, 25))
    def enter(self, size: int) -> None:
        if self.closed:
            assert refusal(self.admission, size).reason == Reason.SHUTTING_DOWN
        elif len(self.inside) == self.max_calls:
            failure = refusal(self.admission, size)
            assert failure.reason == Reason.QUEUE_FULL
            assert failure.metadata == {"calls": str(self.max_calls)}
        elif self.inside and sum(self.inside) + size > self.max_bytes:
            failure = refusal(self.admission, size)
            assert failure.reason == Reason.QUEUE_FULL
            assert failure.metadata == {"bytes": str(sum(self.inside))}
        else:
            self.admission.enter(size)
            self.inside.append(size)

    @precondition(lambda self: self.inside)
    @rule(index=st.integers(0, 4))
    def leave(self, index: int) -> None:
        self.admission.leave(self.inside.pop(index % len(self.inside)))

    @precondition(lambda self: len(self.inside) > 1)
    @rule()
    def close(self) -> None:
        self.admission.close()
        self.closed = True

    @invariant()
    def what_is_in_is_counted(self) -> None:
        assert self.admission.calls == len(self.inside)
        assert self.admission.bytes == sum(self.inside)
        assert self.admission.wait_idle(0) is not bool(self.inside)


def test_an_admission_counts_as_a_list_of_sizes_would() -> None:
    run_state_machine_as_test(
        AsListOfSizes,
        settings=settings(deadline=None, max_examples=60, stateful_step_count=30),
    )


def test_one_call_alone_always_fits() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.enter(1000)

    assert refusal(admission, 0).metadata == {"bytes": "1000"}
    admission.leave(1000)
    admission.enter(10)
    admission.enter(0)


def test_bytes_may_be_filled_to_the_last() -> None:
    admission = Admission(max_calls=3, max_bytes=10)
    admission.enter(4)
    admission.enter(6)

    assert refusal(admission, 1).metadata == {"bytes": "10"}


def test_a_refused_call_takes_no_room() -> None:
    admission = Admission(max_calls=1, max_bytes=10)
    admission.enter(3)
    refusal(admission, 3)

    assert (admission.calls, admission.bytes) == (1, 3)


def test_a_closed_admission_lets_out_and_nobody_in() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.enter(1)
    admission.close()

    assert refusal(admission).reason == Reason.SHUTTING_DOWN
    admission.leave(1)
    assert refusal(admission).reason == Reason.SHUTTING_DOWN
    assert admission.wait_idle(0)


def test_the_last_call_to_leave_ends_the_wait() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.enter(1)
    admission.enter(1)
    waiting = Background(lambda: admission.wait_idle(DAY))
    admission.leave(1)
    assert waiting.running
    admission.leave(1)

    assert waiting.result()


def test_a_wait_for_calls_that_stay_is_given_up() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.enter(1)

    assert not Background(lambda: admission.wait_idle(0.01)).result()


def test_it_is_quiet_where_no_caller_has_to_be_turned_away() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.close()
    refusal(admission)

    # It does not matter who was turned away before.
    Background(lambda: admission.wait_quiet(0.0, DAY)).result()
    Background(lambda: admission.wait_quiet(0.01, DAY)).result()


def test_callers_who_are_turned_away_prolong_the_wait_until_it_is_given_up() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.close()
    waiting = Background(lambda: admission.wait_quiet(DAY, 0.01))
    # Without them it would go on for a day, and with the first of them it is not over.
    end = time.monotonic() + PATIENCE
    while waiting.running and time.monotonic() < end:
        refusal(admission)

    waiting.result()


def test_a_wait_for_quiet_is_given_up_in_time_where_nobody_comes() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.close()
    waiting = Background(lambda: admission.wait_quiet(DAY, 0.01))
    try:
        waiting.result()
    finally:
        while waiting.running:
            refusal(admission)


def test_there_is_no_wait_for_quiet_without_time() -> None:
    admission = Admission(max_calls=2, max_bytes=10)
    admission.close()

    Background(lambda: admission.wait_quiet(DAY, 0.0)).result()


def test_calls_on_many_threads_are_counted_and_bounded() -> None:
    admission = Admission(max_calls=3, max_bytes=10)
    together = threading.Barrier(4)

    def call(seed: int) -> int:
        rng = random.Random(seed)
        together.wait()
        entered = 0
        for _ in range(500):
            size = rng.randrange(1, 6)
            try:
                admission.enter(size)
            except CallError:
                continue
            entered += 1
            assert admission.calls <= 3
            assert admission.bytes <= 10
            admission.leave(size)
        return entered

    callers = [Background(partial(call, seed)) for seed in range(4)]
    assert all(caller.result() for caller in callers)
    assert (admission.calls, admission.bytes) == (0, 0)
