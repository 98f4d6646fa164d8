"""What the server holds at a time: how many calls, how many bytes, and until when."""

import random
import threading
import time
from functools import partial

import pytest
from conftest import Guest
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

from forwardpass.server.errors import CallError, InvalidInput
from forwardpass.server.scheduling.admission import Admission, AdmissionLimits
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.wire import Failure, Reason

from .jobs import DAY, PATIENCE, Background


def admission_of(calls: int, size: int, streams: int = 4, watches: int = 4) -> Admission:
    return Admission(AdmissionLimits(calls, size, streams, watches))


def entered(admission: Admission, size: int, account: str = "a") -> Guest:
    guest = Guest(account)
    admission.enter(guest, size)
    return guest


def refusal(admission: Admission, size: int = 1, account: str = "a") -> Failure:
    with pytest.raises(CallError) as caught:
        admission.enter(Guest(account), size)
    assert caught.value.failure.retry_after == RETRY_AFTER
    return caught.value.failure


class AsListOfSizes(RuleBasedStateMachine):
    """An admission beside a list of the calls of one connection that are in, and their sizes."""

    @initialize(max_calls=st.integers(1, 5), max_bytes=st.integers(1, 20))
    def begin(self, max_calls: int, max_bytes: int) -> None:
        self.admission = admission_of(max_calls, max_bytes)
        self.max_calls, self.max_bytes = max_calls, max_bytes
        self.inside: list[tuple[Guest, int]] = []
        self.closed = False

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.inside)

    @rule(size=st.integers(0, 25))
    def enter(self, size: int) -> None:
        if self.closed:
            assert refusal(self.admission, size).reason == Reason.SHUTTING_DOWN
        elif len(self.inside) == self.max_calls:
            failure = refusal(self.admission, size)
            assert failure.reason == Reason.QUEUE_FULL
            assert failure.metadata == {"calls": str(self.max_calls)}
        elif self.bytes and self.bytes + size > self.max_bytes and not self._is_reserved(size):
            failure = refusal(self.admission, size)
            assert failure.reason == Reason.QUEUE_FULL
            assert failure.metadata == {"bytes": str(self.bytes)}
        else:
            self.inside.append((entered(self.admission, size), size))

    def _is_reserved(self, size: int) -> bool:
        """Whether the reserve has room: it is for a connection that has none of the second half."""
        second_half = any(guest in self.admission._bytes.guests for guest, _ in self.inside)
        return not size or (not second_half and size <= self.max_bytes // 8)

    @precondition(lambda self: self.inside)
    @rule(index=st.integers(0, 4))
    def leave(self, index: int) -> None:
        self.admission.leave(*self.inside.pop(index % len(self.inside)))

    @precondition(lambda self: len(self.inside) > 1)
    @rule()
    def close(self) -> None:
        self.admission.close()
        self.closed = True

    @invariant()
    def what_is_in_is_counted(self) -> None:
        assert self.admission.calls == len(self.inside)
        assert self.admission.bytes == self.bytes
        assert self.admission.wait_idle(0) is not bool(self.inside)


def test_an_admission_counts_as_a_list_of_sizes_would() -> None:
    run_state_machine_as_test(
        AsListOfSizes,
        settings=settings(deadline=None, max_examples=60, stateful_step_count=30),
    )


def test_one_call_alone_always_fits() -> None:
    admission = admission_of(2, 10)
    first = entered(admission, 1000)

    assert refusal(admission, 1).metadata == {"bytes": "1000"}
    admission.leave(first, 1000)
    entered(admission, 10)
    entered(admission, 0)


def test_bytes_may_be_filled_to_the_last() -> None:
    admission = admission_of(3, 10)
    entered(admission, 4)
    entered(admission, 6)

    assert refusal(admission, 1).metadata == {"bytes": "10"}


def test_a_refused_call_takes_no_room() -> None:
    admission = admission_of(2, 4)
    entered(admission, 3)
    refusal(admission, 3)

    assert (admission.calls, admission.bytes) == (1, 3)
    assert not admission._calls.guests


def test_what_a_request_becomes_is_counted_until_its_call_ends() -> None:
    admission = admission_of(4, 100)
    first, second = entered(admission, 10), entered(admission, 10)
    admission.hold(first, 60)
    with pytest.raises(CallError) as caught:
        admission.hold(second, 60)
    assert caught.value.failure.metadata == {"bytes": "80"}
    with pytest.raises(InvalidInput, match="send fewer rows"):
        admission.hold(second, 101)
    admission.leave(second, 10)
    # Alone it may have all.
    admission.hold(first, 40)
    assert admission.bytes == 110
    admission.leave(first, 110)
    assert admission.bytes == 0
    assert not admission._bytes.guests


def test_a_stream_reads_on_once_there_is_room() -> None:
    admission = admission_of(8, 100)
    stream, woken = Guest(), []
    admission.enter_stream(stream, 0)
    assert admission.may_read(stream)
    calls = [Guest() for _ in range(8)]
    for call in calls:
        admission.enter_from_stream(call, 1)
    assert not admission.may_read(stream)
    admission.wait(stream, lambda: woken.append(1))
    admission.leave(calls[0], 1)
    # Not for one place, which others may want.
    assert not woken
    admission.leave(calls[1], 1)
    assert woken == [1]
    # There may be room again before it says that it waits.
    admission.wait(stream, lambda: woken.append(2))
    assert woken == [1, 2]
    # One that has left is not woken up.
    for call in calls[:2]:
        admission.enter_from_stream(call, 1)
    admission.wait(stream, lambda: woken.append(3))
    admission.leave_stream(stream, 0)
    for call in calls:
        admission.leave(call, 1)
    assert woken == [1, 2]


def test_an_idle_stream_takes_no_place_of_a_call() -> None:
    admission = admission_of(1, 10, streams=2)
    streams = [Guest(), Guest()]
    for stream in streams:
        admission.enter_stream(stream, 0)
    with pytest.raises(CallError, match="max_streams"):
        admission.enter_stream(Guest(), 0)
    call = entered(admission, 1)
    admission.leave(call, 1)
    assert not admission.wait_idle(0)
    for stream in streams:
        admission.leave_stream(stream, 0)
    assert admission.wait_idle(0)


def test_watches_have_a_bound_of_their_own() -> None:
    admission = admission_of(1, 10, watches=2)
    watches = [Guest(), Guest()]
    for watch in watches:
        admission.enter_watch(watch, 0)
    with pytest.raises(CallError, match="max_watches"):
        admission.enter_watch(Guest(), 0)
    # Nobody waits for them at the end.
    assert admission.wait_idle(0)
    admission.leave_watch(watches[0], 0)
    admission.enter_watch(Guest(), 0)


def test_a_closed_admission_lets_out_and_nobody_in() -> None:
    admission = admission_of(2, 10)
    call = entered(admission, 1)
    admission.close()

    assert refusal(admission).reason == Reason.SHUTTING_DOWN
    with pytest.raises(CallError) as caught:
        admission.enter_stream(Guest(), 0)
    assert caught.value.failure.reason == Reason.SHUTTING_DOWN
    admission.leave(call, 1)
    assert refusal(admission).reason == Reason.SHUTTING_DOWN
    assert admission.wait_idle(0)


def test_the_last_call_to_leave_ends_the_wait() -> None:
    admission = admission_of(2, 10)
    calls = entered(admission, 1), entered(admission, 1)
    waiting = Background(lambda: admission.wait_idle(DAY))
    admission.leave(calls[0], 1)
    assert waiting.running
    admission.leave(calls[1], 1)

    assert waiting.result()


def test_a_wait_for_calls_that_stay_is_given_up() -> None:
    admission = admission_of(2, 10)
    entered(admission, 1)

    assert not Background(lambda: admission.wait_idle(0.01)).result()


def test_it_is_quiet_where_no_caller_has_to_be_turned_away() -> None:
    admission = admission_of(2, 10)
    admission.close()
    refusal(admission)

    # It does not matter who was turned away before.
    Background(lambda: admission.wait_quiet(0.0, DAY)).result()
    Background(lambda: admission.wait_quiet(0.01, DAY)).result()


def test_callers_who_are_turned_away_prolong_the_wait_until_it_is_given_up() -> None:
    admission = admission_of(2, 10)
    admission.close()
    waiting = Background(lambda: admission.wait_quiet(DAY, 0.01))
    # Without them it would go on for a day, and with the first of them it is not over.
    end = time.monotonic() + PATIENCE
    while waiting.running and time.monotonic() < end:
        refusal(admission)

    waiting.result()


def test_a_wait_for_quiet_is_given_up_in_time_where_nobody_comes() -> None:
    admission = admission_of(2, 10)
    admission.close()
    waiting = Background(lambda: admission.wait_quiet(DAY, 0.01))
    try:
        waiting.result()
    finally:
        while waiting.running:
            refusal(admission)


def test_there_is_no_wait_for_quiet_without_time() -> None:
    admission = admission_of(2, 10)
    admission.close()

    Background(lambda: admission.wait_quiet(DAY, 0.0)).result()


def test_calls_on_many_threads_are_counted_and_bounded() -> None:
    admission = admission_of(3, 10)
    together = threading.Barrier(4)

    def call(seed: int) -> int:
        rng = random.Random(seed)
        together.wait()
        count = 0
        for _ in range(500):
            size = rng.randrange(1, 6)
            try:
                guest = entered(admission, size, str(seed))
            except CallError:
                continue
            count += 1
            assert admission.calls <= 3
            assert admission.bytes <= 11
            admission.leave(guest, size)
        return count

    callers = [Background(partial(call, seed)) for seed in range(4)]
    assert all(caller.result() for caller in callers)
    assert (admission.calls, admission.bytes) == (0, 0)
