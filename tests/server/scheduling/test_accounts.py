"""What a token's calls hold together: its own bounds, and who is told when there is room again."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Guest

from forwardpass.server.errors import CallError
from forwardpass.server.scheduling.accounts import Account, Accounts, Quota
from forwardpass.server.scheduling.admission import AdmissionLimits
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.server.scheduling.token_admission import TokenAdmission
from forwardpass.wire import Failure, Reason


def account_of(accounts: Accounts, name: str = "jobs", **quota: int) -> Account:
    return accounts.update({name: Quota(**quota)})[name]


def refusal(step: Callable[..., Any], *arguments: Any) -> Failure:
    with pytest.raises(CallError) as caught:
        step(*arguments)
    failure = caught.value.failure
    assert failure.reason is Reason.QUEUE_FULL
    assert "the token 'jobs'" in failure.message
    assert failure.metadata == {"token": "jobs"}
    return failure


def refused(accounts: Accounts) -> dict[str, int]:
    return {bound: count.value for bound, count in accounts.refused.items()}


def test_so_many_calls_and_as_many_streams() -> None:
    accounts = Accounts()
    account = account_of(accounts, calls=2)
    for _ in range(2):
        account.enter_call()
        account.enter_stream()
    failure = refusal(account.enter_call)
    assert "has 2 calls in flight, as many as it may have (its max_in_flight)" in failure.message
    assert failure.retry_after == RETRY_AFTER
    assert "has 2 streams open" in refusal(account.enter_stream).message
    assert refused(accounts) == {"calls": 1, "bytes": 0, "streams": 1}
    account.leave_call()
    account.enter_call()
    account.leave_stream(Guest())
    account.enter_stream()


def test_so_many_bytes() -> None:
    accounts = Accounts()
    account = account_of(accounts, bytes=100)
    for _ in range(4):
        account.enter_call()
    account.take(60, 60)
    failure = refusal(account.take, 41, 41)
    assert "hold 60 bytes, and 41 more would exceed the 100" in failure.message
    assert failure.retry_after == RETRY_AFTER
    account.take(40, 40)
    # Another has no room, whatever it will send.
    assert "hold 100 bytes, as many as they may" in refusal(account.enter_call).message
    account.give_back(40)
    account.enter_call()
    assert refused(accounts) == {"calls": 0, "bytes": 2, "streams": 0}


def test_what_never_fits_is_not_to_be_tried_again() -> None:
    account = account_of(Accounts(), bytes=100)
    account.enter_call()
    for size, whole in ((101, 101), (41, 101)):
        account.take(60, 60)
        failure = refusal(account.take, size, whole)
        assert failure.message.startswith("the request takes 101 bytes, but the calls of")
        assert failure.retry_after is None
        account.give_back(60)
    failure = refusal(account.enter_from_stream, 101)
    assert failure.retry_after is None
    # It is in all the same until it has been told so.
    assert not account.has_room()
    account.leave_from_stream(101)
    assert account.has_room()


def test_without_a_quota_there_is_room_for_all() -> None:
    account = account_of(Accounts())
    for _ in range(1_000):
        account.enter_call()
        account.enter_stream()
        account.enter_from_stream(1 << 40)
    assert account.has_room()


@pytest.mark.parametrize("leave", [Account.leave_call, lambda one: one.leave_from_stream(1)])
def test_all_streams_that_wait_are_told_when_there_is_room(
    leave: Callable[[Account], None],
) -> None:
    """One alone may have nothing to send, and would keep the room from the others."""
    account = account_of(Accounts(), calls=2)
    told: list[str] = []
    assert not account.wait("early", lambda: told.append("early"))
    for _ in range(3):
        account.enter_from_stream(1)
    for name in ("a", "b", "gone"):
        assert account.wait(name, lambda name=name: told.append(name))  # type: ignore[misc]
    account.enter_stream()
    account.leave_stream("gone")
    leave(account)
    assert told == []
    leave(account)
    assert told == ["a", "b"]
    leave(account)
    assert told == ["a", "b"]


def test_a_name_that_comes_back_finds_its_calls_counted() -> None:
    accounts = Accounts()
    first = account_of(accounts, calls=1)
    first.enter_call()
    assert account_of(accounts, "other") is not first
    back = account_of(accounts, calls=1)
    assert back is first
    assert "1 calls in flight" in refusal(back.enter_call).message
    back.leave_call()


def test_no_more_names_are_kept_than_hold_or_are_in_use() -> None:
    accounts = Accounts()
    used = account_of(accounts, "used")
    used.enter_call()
    streaming = account_of(accounts, "streaming")
    streaming.enter_stream()
    for number in range(1_000):
        found = accounts.update({f"name-{number}": Quota()})
        assert len(found) == 3
    used.leave_call()
    streaming.leave_stream("stream")
    assert accounts.update({"last": Quota()}).keys() == {"last"}


def test_a_quota_that_changes_holds_for_what_is_under_way() -> None:
    accounts = Accounts()
    account = account_of(accounts, calls=2)
    account.enter_call()
    assert account_of(accounts, calls=1) is account
    refusal(account.enter_call)
    account_of(accounts, calls=2)
    account.enter_call()


def test_what_the_server_refuses_is_not_counted_for_the_token() -> None:
    account = account_of(Accounts(), bytes=50)
    admission = TokenAdmission(AdmissionLimits(calls=4, bytes=20, streams=1, watches=1))
    first, second, third = (Guest(account) for _ in range(3))
    admission.enter(first, 10)
    admission.enter(second, 5)
    for step, call in ((admission.enter, third), (admission.hold, second)):
        with pytest.raises(CallError, match="max_in_flight_bytes"):
            step(call, 10)
    account.take(35, 35)
    account.give_back(35)
    admission.leave(first, 10)
    admission.leave(second, 5)
    account.take(50, 50)


def test_a_stream_is_read_where_both_have_room() -> None:
    account = account_of(Accounts(), calls=2)
    admission = TokenAdmission(AdmissionLimits(calls=2, bytes=20, streams=2, watches=1))
    stream, others = Guest(account), Guest("another connection")
    told: list[str] = []
    assert admission.may_read(stream)
    admission.enter_from_stream(stream, 1)
    admission.enter_from_stream(stream, 1)
    assert not admission.may_read(stream)
    admission.wait(stream, lambda: told.append("its own"))
    admission.leave_from_stream(stream, 1)
    admission.leave_from_stream(stream, 1)
    assert told == ["its own"]
    # And of the server, where others have what there is.
    super(TokenAdmission, admission).enter(others, 20)
    super(TokenAdmission, admission).enter(others, 0)
    assert not admission.may_read(stream)
    admission.wait(stream, lambda: told.append("the server's"))
    assert told == ["its own"]
    super(TokenAdmission, admission).leave(others, 20)
    super(TokenAdmission, admission).leave(others, 0)
    assert told == ["its own", "the server's"]
