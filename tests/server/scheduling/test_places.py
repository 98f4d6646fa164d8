"""Places, and what a connection may have of them while others want some."""

import time

import pytest
from conftest import Guest

from forwardpass.server.errors import CallError
from forwardpass.server.scheduling import places as module
from forwardpass.server.scheduling.accounts import UNLIMITED, Accounts
from forwardpass.server.scheduling.places import Places


def fill(places: Places, count: int, account: str) -> list[Guest]:
    guests = [Guest(account) for _ in range(count)]
    for guest in guests:
        places.take(guest)
    return guests


def refusal(places: Places, account: str) -> str:
    with pytest.raises(CallError) as caught:
        places.take(Guest(account))
    return caught.value.failure.message


def places_of(most: int, share: float = 0.5) -> Places:
    return Places("calls", "max_in_flight", most, share)


def test_a_connection_that_is_alone_has_all() -> None:
    places = places_of(16)
    fill(places, 16, "proxy")
    assert "would exceed 16 (max_in_flight)" in refusal(places, "proxy")


def test_one_that_comes_finds_the_reserve_and_then_its_share() -> None:
    places = places_of(16)
    held = fill(places, 16, "heavy")
    # Two are kept for those that have none.
    fill(places, 1, "light")
    assert "would exceed" in refusal(places, "light")
    fill(places, 1, "other")
    assert "would exceed" in refusal(places, "third")
    for guest in held[-3:]:
        places.leave(guest)
    # One place is free, and the heavy one has five of the second half, where its share is four.
    assert "its share" in refusal(places, "heavy")
    assert "connection_share" in refusal(places, "heavy")
    fill(places, 1, "light")


def test_a_token_that_has_its_share_is_told_its_name() -> None:
    places = places_of(16)
    account = Accounts().update({"heavy": UNLIMITED})["heavy"]
    for _ in range(12):
        places.take(Guest(account))
    fill(places, 1, "light")
    with pytest.raises(CallError, match="and the token 'heavy' has its share of those"):
        places.take(Guest(account))


def test_a_share_binds_as_long_as_another_wants_places() -> None:
    places = places_of(16)
    held = fill(places, 12, "heavy")
    (light,) = fill(places, 1, "light")
    assert "its share" in refusal(places, "heavy")
    places.leave(light)
    fill(places, 4, "heavy")
    assert places.taken == 16
    for guest in held:
        places.leave(guest)
    assert places.taken == 4


def test_a_share_binds_for_a_while_after_another_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = places_of(4)
    held = fill(places, 4, "heavy")
    refusal(places, "light")
    places.leave(held[3])
    places.leave(held[2])
    fill(places, 1, "heavy")
    assert "its share" in refusal(places, "heavy")
    later = time.monotonic() + module._REFUSED_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    fill(places, 1, "heavy")


def test_the_first_half_is_counted_for_nobody() -> None:
    places = places_of(8)
    held = fill(places, 4, "a")
    assert not places.guests
    (fifth,) = fill(places, 1, "a")
    assert list(places.guests) == [fifth]
    for guest in (*held, fifth):
        places.leave(guest)
    assert (places.taken, places.guests, places._by_account) == (0, {}, {})


def test_what_one_takes_in_parts_it_gives_back_at_once() -> None:
    places = places_of(100)
    guest = Guest()
    places.take(guest, 60)
    places.take(guest, 20)
    assert places.guests[guest] == (guest.account, 80)
    places.leave(guest, 80)
    assert (places.taken, places._by_account) == (0, {})
