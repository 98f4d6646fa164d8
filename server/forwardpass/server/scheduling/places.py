"""Places of one kind, and the share of them that one account may have while others want some."""

import time
from collections.abc import Hashable
from typing import Protocol

from forwardpass.server.errors import CallError
from forwardpass.wire import Reason

# What a refused caller is asked to wait before it tries again, in seconds.
RETRY_AFTER = 0.1
# Of the places, this part is kept for accounts that have none, beside the others.
_RESERVED_PART = 8
# How long an account that was refused counts as one that wants places, in seconds.
_REFUSED_SECONDS = 1.0


class Guest(Hashable, Protocol):
    """Who takes places."""

    @property
    def account(self) -> Hashable:
        """Whose share it takes; a text where it is its connection's."""

    @property
    def size(self) -> int:
        """How many bytes it holds."""


class Places:
    """Counts what is taken, and refuses what is too much.

    The first half goes to whoever comes, and nobody counts whose it is: to find out would cost each
    call. Of the second half an account has at most its share while another has some of it, or was
    just refused. One that has none of it finds a reserve beside.

    Attributes:
        taken: How many are taken.
        free_for_all: Up to how many are given to whoever comes.
        guests: Who has how many of the second half, and on which account.

    Args:
        what: What is counted, for a refusal.
        setting: The setting that bounds it.
        most: How many there are.
        share: The part of the second half that one account may have.
    """

    __slots__ = (
        "_by_account",
        "_from_reserve",
        "_most",
        "_refused",
        "_reserve",
        "_setting",
        "_share",
        "_what",
        "free_for_all",
        "guests",
        "taken",
    )

    def __init__(self, what: str, setting: str, most: int, share: float) -> None:
        self._what = what
        self._setting = setting
        self._most = most
        self._reserve = most // _RESERVED_PART
        self.free_for_all = most // 2
        self._share = max(1, int((most - self.free_for_all) * share))
        self.guests: dict[Guest, tuple[Hashable, int]] = {}
        # How much of the reserve is taken, and by whom.
        self._from_reserve: dict[Guest, int] = {}
        # How many of the second half each account has.
        self._by_account: dict[Hashable, int] = {}
        # The account that was refused last, and until when that counts.
        self._refused: tuple[Hashable, float] = ("", 0.0)
        self.taken = 0

    def take(self, guest: Guest, count: int = 1, *, force: bool = False) -> None:
        """Takes places; `leave` must follow.

        Args:
            guest: Who takes them.
            count: How many.
            force: Whether to take them even if there are none.

        Raises:
            CallError: QUEUE_FULL: there are none for it.
        """
        if count and self.taken + count > self.free_for_all:
            account = guest.account
            why = None if force else self._why_not(account, count)
            if why is not None and self._is_reserved_for(account, count):
                self._from_reserve[guest] = count
                why = None
            if why is not None:
                self._refused = account, time.monotonic() + _REFUSED_SECONDS
                raise CallError(
                    Reason.QUEUE_FULL,
                    f"{why}; try again in {RETRY_AFTER} s",
                    retry_after=RETRY_AFTER,
                    facts={self._what.partition(" ")[0]: self.taken},
                )
            _, had = self.guests.get(guest, (account, 0))
            self.guests[guest] = account, had + count
            self._by_account[account] = self._by_account.get(account, 0) + count
        self.taken += count

    def leave(self, guest: Guest, count: int = 1) -> None:
        """Gives back all that a guest has taken."""
        self.taken -= count
        self.forget(guest)

    def forget(self, guest: Guest) -> None:
        """Counts what a guest had of the second half as given back."""
        found = self.guests.pop(guest, None)
        if self._from_reserve:
            self._from_reserve.pop(guest, None)
        if found is not None:
            account, had = found
            left = self._by_account[account] - had
            if left:
                self._by_account[account] = left
            else:
                del self._by_account[account]

    def has_room(self, guest: Guest) -> bool:
        """Whether the guest would be given one place now."""
        return self.taken < self.free_for_all or self._why_not(guest.account, 1) is None

    @property
    def is_loose(self) -> bool:
        """Whether so many are free that those who wait may try again."""
        return self.taken < self._most - self._reserve

    def _why_not(self, account: Hashable, count: int) -> str | None:
        """Returns why an account is given no more; None where it is."""
        own = self._by_account.get(account, 0)
        if self.taken + count > self._most:
            # One alone always fits.
            if not self.taken:
                return None
            return (
                f"{self.taken} {self._what} are in flight and {count} more would exceed "
                f"{self._most} ({self._setting})"
            )
        if own + count > self._share and self._is_wanted_by_others(account):
            holder = "this connection" if isinstance(account, str) else account
            return (
                f"{self.taken} {self._what} are in flight, and {holder} has its share of those "
                "that are left to others (connection_share)"
            )
        return None

    def _is_reserved_for(self, account: Hashable, count: int) -> bool:
        """Whether an account has none of the second half, and the reserve has as many."""
        taken = sum(self._from_reserve.values())
        return account not in self._by_account and taken + count <= self._reserve

    def _is_wanted_by_others(self, account: Hashable) -> bool:
        others = len(self._by_account) - (account in self._by_account)
        refused, until = self._refused
        return others > 0 or (refused != account and time.monotonic() < until)
