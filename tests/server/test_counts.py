"""Counts, and the end of a call: what happens once is told once."""

from typing import Any

from forwardpass.server.metrics.numbers import Count
from forwardpass.server.transport.completion import Ending


def test_to_read_a_count_is_not_to_count() -> None:
    count = Count()
    for expected in (0, 1, 2, 3):
        assert [count.value, count.value] == [expected, expected]
        count.add()


def test_a_call_ends_once_and_who_asks_later_is_told_at_once() -> None:
    ending, told = Ending(), []
    # It is handed on, and nothing is asked of it.
    call: Any = object()
    ending.on_end(call, lambda _, code: told.append(("early", code)))
    callbacks = ending.begin(4)
    assert callbacks is not None
    for callback in callbacks:
        callback(call, 4)
    assert ending.begin(0) is None
    ending.on_end(call, lambda _, code: told.append(("late", code)))
    assert told == [("early", 4), ("late", 4)]
