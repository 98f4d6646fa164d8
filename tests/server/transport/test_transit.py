"""What is on its way: what is asked for, in whose turn, and what is ended where memory is short."""

import time
from dataclasses import dataclass, field

import pytest

from forwardpass.server.transport import transit as module
from forwardpass.server.transport.transit import Room, Transit
from forwardpass.wire import Failure

MIB = 1 << 20
LIMIT = 1 << 30
LONGEST = 8 * MIB
# 64 MiB, a sixteenth; beside them there is a place for who is not known to send long messages.
AT_A_TIME = 8
# A little more than a message is young for, in seconds.
SOON = 1.2 * module.YOUNG_SECONDS


@dataclass(eq=False)
class Message:
    """A message of a connection, and what became of it."""

    account: str = "a"
    unsent: int = 0
    has_ended: bool = False
    evicted_for: Failure | None = None
    is_asked_for: bool = False
    is_apart: bool = False

    def ask(self) -> None:
        self.is_asked_for = True

    def ask_apart(self) -> None:
        self.is_asked_for = self.is_apart = True

    def evict(self, why: Failure) -> None:
        self.evicted_for = why

    @property
    def is_evicted(self) -> bool:
        return self.evicted_for is not None


@dataclass
class Clock:
    """The time, and the memory that there is."""

    now: float = 1000.0
    available: int = LIMIT
    trims: list[float] = field(default_factory=list)

    def room(self) -> Room:
        return Room(LIMIT, self.available)

    def trim(self) -> None:
        self.trims.append(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def transit(clock: Clock) -> Transit:
    return Transit(LONGEST, clock.room, clock.trim)


def receive(transit: Transit, count: int, account: str = "a") -> list[Message]:
    """Has messages asked for as a transport does."""
    messages = [Message(account) for _ in range(count)]
    for message in messages:
        if len(transit.arriving) < transit.places:
            transit.arriving[message] = time.perf_counter()
            message.ask()
        else:
            transit.wait(message)
    return messages


def make_slow(transit: Transit, clock: Clock) -> None:
    clock.now += SOON
    transit.age(clock.now - SOON)


def fill_with_slow(transit: Transit, clock: Clock) -> list[Message]:
    """Takes what is the slow ones' in any case, 64 MiB, by a connection that sends long ones."""
    slow = receive(transit, AT_A_TIME + 1)
    transit.was_long(slow[0])
    make_slow(transit, clock)
    return slow


def test_no_more_are_asked_for_than_there_is_room_for(transit: Transit) -> None:
    messages = receive(transit, AT_A_TIME + 4)
    at_once = [message.is_asked_for for message in messages]
    assert at_once == [True] * (AT_A_TIME + 1) + [False] * 3
    transit.received(messages[0])
    assert [message.is_asked_for for message in messages[-3:]] == [True, False, False]


def test_a_place_is_kept_for_who_sends_no_long_ones(transit: Transit) -> None:
    long = receive(transit, AT_A_TIME, "long")
    transit.was_long(long[0])
    waiting = receive(transit, 2, "long")
    short, other = receive(transit, 1, "short"), receive(transit, 1, "other")
    assert [message.is_asked_for for message in waiting] == [False, False]
    assert short[0].is_asked_for
    # There is one.
    assert not other[0].is_asked_for
    transit.received(short[0])
    assert other[0].is_asked_for
    assert not any(message.is_asked_for for message in waiting)


def test_only_what_may_be_long_is_asked_for_apart(transit: Transit) -> None:
    first = receive(transit, AT_A_TIME + 1, "a")
    (long,), (short,) = receive(transit, 1, "long"), receive(transit, 1, "short")
    transit.was_long(long)
    for message in first:
        transit.received(message)
    assert (long.is_asked_for, long.is_apart) == (True, True)
    assert (short.is_asked_for, short.is_apart) == (True, False)


def test_connections_take_turns(transit: Transit) -> None:
    first = receive(transit, AT_A_TIME + 1)
    many, one = receive(transit, 5, "a"), receive(transit, 1, "b")
    for message in first[:2]:
        transit.received(message)
    assert one[0].is_asked_for
    assert [message.is_asked_for for message in many] == [True, *[False] * 4]


def test_who_has_ended_is_not_asked_for(transit: Transit) -> None:
    (first, *_), waiting = receive(transit, AT_A_TIME + 1), receive(transit, 2)
    waiting[0].has_ended = True
    transit.received(first)
    assert [message.is_asked_for for message in waiting] == [False, True]


def test_one_connection_cannot_fill_the_queue_for_others(transit: Transit) -> None:
    receive(transit, AT_A_TIME + 1)
    many = receive(transit, module._MOST_WAITING + 2, "a")
    assert [message.is_evicted for message in many[-3:]] == [False, True, True]
    why = many[-1].evicted_for
    assert why is not None
    assert "others of this caller among them" in why.message
    (other,) = receive(transit, 1, "b")
    assert not other.is_evicted


def test_what_is_slow_makes_room(transit: Transit, clock: Clock) -> None:
    slow, waiting = receive(transit, AT_A_TIME + 1), receive(transit, 1)
    assert transit.may_be_slow(clock.now) is None
    clock.now += SOON
    assert transit.may_be_slow(clock.now) is slow[0]
    # What was asked for later may only be waiting for us.
    transit.age(clock.now - SOON - 0.001)
    assert not waiting[0].is_asked_for
    transit.age(clock.now - SOON)
    assert waiting[0].is_asked_for
    assert transit.bytes == (AT_A_TIME + 1) * LONGEST
    for message in slow:
        transit.received(message)
    assert transit.bytes == 0


def test_where_slow_ones_have_all_the_memory_the_next_waits_until_one_is_ended(
    transit: Transit, clock: Clock
) -> None:
    slow = fill_with_slow(transit, clock)
    long, short = receive(transit, 1), receive(transit, 1, "b")
    assert not long[0].is_asked_for
    assert short[0].is_asked_for
    clock.available = LIMIT // 4
    clock.now += module._PATIENCE_SECONDS / 2
    transit.look()
    assert not long[0].is_asked_for
    clock.now += module._PATIENCE_SECONDS
    transit.look()
    assert [message.is_evicted for message in slow] == [True, *[False] * AT_A_TIME]
    assert long[0].is_asked_for


def test_answers_that_were_slow_and_are_taken_make_room(transit: Transit, clock: Clock) -> None:
    answer = Message(unsent=LIMIT // 16)
    transit.leaving[answer] = clock.now
    make_slow(transit, clock)
    long, waiting = receive(transit, 2)
    assert long.is_asked_for
    assert not waiting.is_asked_for
    transit.was_long(long)
    transit.sent(answer)
    assert waiting.is_asked_for


def test_where_there_is_memory_the_next_is_asked_for_once_it_has_been_looked_at(
    transit: Transit, clock: Clock
) -> None:
    slow = fill_with_slow(transit, clock)
    (waiting,) = receive(transit, 1)
    assert not waiting.is_asked_for
    clock.now += module._LOOK_SECONDS
    transit.look()
    assert waiting.is_asked_for
    assert not any(message.is_evicted for message in slow)


def test_what_has_come_is_not_slow_and_keeps_its_room(transit: Transit, clock: Clock) -> None:
    here, *others = receive(transit, AT_A_TIME)
    beside, waiting = receive(transit, 2)
    transit.came(here)
    for message in others[1:]:
        transit.received(message)
    assert waiting.is_asked_for
    (late,) = receive(transit, 1)
    clock.now += SOON
    # It is looked past.
    assert transit.may_be_slow(clock.now) is others[0]
    transit.age(clock.now)
    assert here in transit.arriving
    assert others[0] in transit.slow
    transit.came(late)
    assert late in transit.slow
    for message in (here, late, beside, waiting, others[0]):
        transit.received(message)
    assert not transit.arriving
    assert transit.bytes == 0


def test_what_core_is_asked_for_gets_slow_once_it_has_been_asked(
    transit: Transit, clock: Clock
) -> None:
    (message,) = receive(transit, 1)
    transit.begin_asking(message)
    clock.now += SOON
    assert transit.may_be_slow(clock.now) is None
    transit.end_asking(message)
    assert transit.may_be_slow(clock.now) is None
    clock.now += SOON
    assert transit.may_be_slow(clock.now) is message
    transit.received(message)
    # That core has been asked is told after a message that was there.
    transit.end_asking(message)
    assert not transit.arriving


def test_what_has_come_while_core_was_asked_is_not_slow(transit: Transit, clock: Clock) -> None:
    (message,) = receive(transit, 1)
    transit.begin_asking(message)
    transit.came(message)
    transit.end_asking(message)
    clock.now += SOON
    assert transit.may_be_slow(clock.now) is None
    transit.age(clock.now)
    assert message in transit.arriving


def test_slow_ones_stay_while_there_is_memory(transit: Transit, clock: Clock) -> None:
    messages = []
    for _ in range(8):
        messages += receive(transit, AT_A_TIME)
        make_slow(transit, clock)
        clock.now += module._LOOK_SECONDS
        transit.look()
    assert transit.bytes == 64 * LONGEST
    assert not any(message.is_evicted for message in messages)
    # 512 MiB may come, and a quarter is kept free.
    clock.available = LIMIT * 3 // 4 - LONGEST
    clock.now += 10
    transit.look()
    assert [message.is_evicted for message in messages] == [True, *[False] * 63]
    assert transit.evicted == 1
    assert clock.trims


def test_slow_ones_leave_room_for_long_messages_in_work(clock: Clock) -> None:
    """Ten of 64 MiB are more than half of the memory, which is what is kept then."""
    transit = Transit(64 * MIB, clock.room, clock.trim)
    clock.available = LIMIT // 2 + 128 * MIB
    messages = []
    for _ in range(3):
        messages += receive(transit, 1)
        make_slow(transit, clock)
        clock.now += module._LOOK_SECONDS
        transit.look()
    clock.now += module._PATIENCE_SECONDS
    transit.look()
    assert [message.is_evicted for message in messages] == [True, False, False]


def test_the_longest_of_whom_holds_most_is_ended(transit: Transit, clock: Clock) -> None:
    light = receive(transit, 2, "light")
    heavy = receive(transit, 6, "heavy")
    make_slow(transit, clock)
    heavy += receive(transit, 8, "heavy")
    make_slow(transit, clock)
    clock.available = 0
    clock.now += 1
    transit.look()
    # What is always theirs is left: 64 MiB.
    assert [message.is_evicted for message in heavy] == [True] * 8 + [False] * 6
    assert not any(message.is_evicted for message in light)


def test_what_has_just_become_slow_is_spared_unless_memory_is_short(
    transit: Transit, clock: Clock
) -> None:
    messages = receive(transit, AT_A_TIME)
    make_slow(transit, clock)
    messages += receive(transit, AT_A_TIME)
    make_slow(transit, clock)
    clock.available = LIMIT * 3 // 16
    transit.look()
    assert not any(message.is_evicted for message in messages)
    clock.available = LIMIT // 16
    clock.now += 2 * module._LOOK_SECONDS
    transit.look()
    assert sum(message.is_evicted for message in messages) == 8


COPIES = 3


@pytest.fixture
def threaded(transit: Transit) -> Transit:
    """Of a transport whose messages are each taken in by a thread of its own."""
    transit.shared_by_threads(COPIES)
    return transit


def test_what_a_thread_takes_in_counts_with_its_copies(threaded: Transit, clock: Clock) -> None:
    receive(threaded, 1)
    make_slow(threaded, clock)
    assert threaded.bytes == COPIES * LONGEST


def test_the_kept_place_does_not_let_in_one_after_another(threaded: Transit, clock: Clock) -> None:
    """Each gets slow before memory is looked at, and nobody knows that they are long."""
    messages = [message for account in "abcdefgh" for message in receive(threaded, 4, account)]
    for _ in range(40):
        make_slow(threaded, clock)
    asked_for = sum(message.is_asked_for for message in messages)
    assert asked_for < len(messages) // 2
    # The room, what is asked for by then, and one more.
    assert threaded.bytes <= threaded.most_slow + (AT_A_TIME + 2) * COPIES * LONGEST


def test_what_is_ended_counts_until_its_thread_has_come_back(
    threaded: Transit, clock: Clock
) -> None:
    heavy = receive(threaded, AT_A_TIME, "heavy")
    make_slow(threaded, clock)
    (late,) = receive(threaded, 1, "late")
    make_slow(threaded, clock)
    counted = threaded.bytes
    clock.available = LIMIT // 4
    clock.now += 1
    threaded.look()
    evicted = [message for message in heavy if message.is_evicted]
    assert evicted
    assert threaded.bytes == counted
    # Nobody else is ended for what is going already.
    clock.now += 1
    threaded.look()
    assert [message for message in heavy if message.is_evicted] == evicted
    assert not late.is_evicted
    for message in (*heavy, late):
        threaded.received(message)
    assert threaded.bytes == 0
    (again,) = receive(threaded, 1, "heavy")
    assert again.is_asked_for


def test_one_that_waits_for_a_core_is_not_ended_for_it(clock: Clock) -> None:
    transit = Transit(64 * MIB, clock.room, clock.trim)
    transit.shared_by_threads(COPIES)
    clock.available = 0
    (only,) = receive(transit, 1)
    make_slow(transit, clock)
    clock.now += 10
    transit.look()
    assert not only.is_evicted


def test_answers_that_are_not_read_count_with_all_that_waits_behind_them(
    transit: Transit, clock: Clock
) -> None:
    answer = Message(unsent=100 * MIB)
    transit.leaving[answer] = clock.now
    make_slow(transit, clock)
    transit.grow(answer, 50 * MIB)
    # What is sent is core's and ours.
    assert transit.bytes == 250 * MIB
    clock.available = 0
    clock.now += 1
    transit.look()
    assert answer.is_evicted
    assert transit.bytes == 0
    transit.sent(answer)
    assert transit.bytes == 0


def test_what_was_freed_is_given_back_once_it_is_quiet(transit: Transit, clock: Clock) -> None:
    messages = []
    for _ in range(2):
        messages += receive(transit, AT_A_TIME)
        make_slow(transit, clock)
    assert transit.look() == module._LOOK_SECONDS
    for message in messages:
        transit.received(message)
    clock.now += module._QUIET_SECONDS / 2
    assert transit.look() == module._LOOK_SECONDS
    assert not clock.trims
    clock.now += module._QUIET_SECONDS
    assert transit.look() is None
    assert clock.trims == [clock.now]
    # Once.
    clock.now += 10
    assert transit.look() is None
    assert len(clock.trims) == 1


def test_one_that_takes_a_while_is_given_back_when_it_has_ended(clock: Clock) -> None:
    """It is as much as many short ones; before, there is nothing to give back."""
    transit = Transit(64 * MIB, clock.room, clock.trim)
    (message,) = receive(transit, 1)
    make_slow(transit, clock)
    for _ in range(3):
        clock.now += module._QUIET_SECONDS
        assert transit.look() == module._LOOK_SECONDS
    assert not clock.trims
    transit.received(message)
    clock.now += module._QUIET_SECONDS / 2
    assert transit.look() == module._LOOK_SECONDS
    clock.now += module._QUIET_SECONDS
    assert transit.look() is None
    assert clock.trims == [clock.now]


def test_a_few_that_go_on_being_slow_do_not_put_it_off(transit: Transit, clock: Clock) -> None:
    many = receive(transit, AT_A_TIME)
    make_slow(transit, clock)
    for message in many:
        transit.received(message)
    while not clock.trims:
        assert clock.now < 1000 + 3 * module._QUIET_SECONDS
        (message,) = receive(transit, 1)
        make_slow(transit, clock)
        transit.received(message)
        clock.now += module._QUIET_SECONDS / 4
        transit.look()


def test_a_few_slow_ones_leave_nothing_to_give_back(transit: Transit, clock: Clock) -> None:
    messages = receive(transit, 1)
    make_slow(transit, clock)
    for message in messages:
        transit.received(message)
    clock.now += 10
    assert transit.look() is None
    assert not clock.trims
