"""In which order messages are asked for that wait."""

import time
from dataclasses import dataclass

import pytest

from forwardpass.server.transport import turns as module
from forwardpass.server.transport.turns import Turns


@dataclass(frozen=True)
class Message:
    """A message of an account."""

    account: str
    number: int = 0


def line_up(turns: Turns[Message], account: str, count: int) -> None:
    for number in range(count):
        turns.add(Message(account, number))


def order(turns: Turns[Message]) -> list[str]:
    return [turns.pop().account for _ in range(turns.count)]


def test_connections_take_turns_and_each_keeps_its_order() -> None:
    turns = Turns[Message]()
    line_up(turns, "a", 3)
    line_up(turns, "b", 1)
    line_up(turns, "c", 2)
    assert turns.has("a")
    assert not turns.has("d")
    popped = [turns.pop() for _ in range(turns.count)]
    assert [message.account for message in popped] == ["a", "b", "c", "a", "c", "a"]
    assert [message.number for message in popped if message.account == "a"] == [0, 1, 2]
    assert not turns.has("a")


def test_who_sent_a_long_message_comes_last() -> None:
    turns = Turns[Message]()
    turns.sent_long("long")
    line_up(turns, "long", 2)
    line_up(turns, "a", 2)
    assert order(turns) == ["a", "a", "long", "long"]


def test_who_sends_a_long_message_while_others_of_it_wait_goes_to_the_end() -> None:
    turns = Turns[Message]()
    line_up(turns, "long", 2)
    line_up(turns, "a", 1)
    turns.sent_long("long")
    line_up(turns, "long", 1)
    popped = [turns.pop() for _ in range(turns.count)]
    assert [message.account for message in popped] == ["a", "long", "long", "long"]
    assert [message.number for message in popped[1:]] == [0, 1, 0]


def test_long_messages_have_a_turn_now_and_then() -> None:
    turns = Turns[Message]()
    turns.sent_long("long")
    line_up(turns, "long", 2)
    line_up(turns, "a", 3 * module._SHORT_TURNS)
    places = [place for place, account in enumerate(order(turns)) if account == "long"]
    assert places == [module._SHORT_TURNS, 2 * module._SHORT_TURNS + 1]


def test_a_short_one_is_none_where_only_long_ones_wait() -> None:
    turns = Turns[Message]()
    turns.sent_long("long")
    line_up(turns, "long", 1)
    assert turns.pop_short() is None
    line_up(turns, "a", 1)
    assert turns.pop_short() == Message("a")
    assert turns.count == 1


def test_who_sent_long_messages_is_forgotten_once_many_others_did() -> None:
    turns = Turns[Message]()
    for number in range(module._MOST_KNOWN):
        turns.sent_long(f"other-{number}")
        turns.sent_long("often")
    turns.sent_long("long")
    line_up(turns, "often", 1)
    line_up(turns, "other-0", 1)
    assert order(turns) == ["other-0", "often"]
    assert len(turns._known_long) == module._MOST_KNOWN


def test_who_sent_a_long_message_is_forgotten_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns[Message]()
    turns.sent_long("once")
    assert turns.may_be_long(Message("once"))
    later = time.perf_counter() + module._KNOWN_SECONDS
    monkeypatch.setattr(time, "perf_counter", lambda: later)
    turns.sent_long("long")
    line_up(turns, "long", 1)
    line_up(turns, "once", 1)
    assert not turns.may_be_long(Message("once"))
    assert order(turns) == ["once", "long"]
