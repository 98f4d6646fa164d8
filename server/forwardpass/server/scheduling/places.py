"""Places of one kind, and the share of them that a connection may have while others want some."""

import time
from collections.abc import Hashable
from typing import Protocol

from forwardpass.server.errors import CallError
from forwardpass.wire import Reason

# What a refused caller is asked to wait before it tries again, in seconds.
RETRY_AFTER = 0.1
# Of the places, this part is kept for connections that have none, beside the others.
_RESERVED_PART = 8
# How long a connection that was refused counts as one that wants places, in seconds.
_REFUSED_SECONDS = 1.0


class Guest(Hashable, Protocol):
    """Who takes places."""

    @property
    def peer(self) -> str:
        """Its connection's other end."""


class Places:
    """Counts what is taken, and refuses what is too much.

    The first half goes to whoever comes, and nobody counts whose it is: to find out would cost each
    call. Of the second half a connection has at most its share while another has some of it, or was
    just refused. One that has none of it finds a reserve beside.

    Attributes:
        taken: How many are taken.
        free_for_all: Up to how many are given to whoever comes.
        guests: Who has how many of the second half, and by which connection.

    Args:
        what: What is counted, for a refusal.
        setting: The setting that bounds it.
        most: How many there are.
        share: The part of the second half that one connection may have.
    """

    __slots__ = (
        "_by_peer",
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
        self.guests: dict[Guest, tuple[str, int]] = {}
        # How much of the reserve is taken, and by whom.
        self._from_reserve: dict[Guest, int] = {}
        # How many of the second half each connection has.
        self._by_peer: dict[str, int] = {}
        # The connection that was refused last, and until when that counts.
        self._refused = ("", 0.0)
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
            peer = guest.peer
            why = None if force else self._why_not(peer, count)
            if why is not None and self._is_reserved_for(peer, count):
                self._from_reserve[guest] = count
                why = None
            if why is not None:
                self._refused = peer, time.monotonic() + _REFUSED_SECONDS
                raise CallError(
                    Reason.QUEUE_FULL,
                    f"{why}; try again in {RETRY_AFTER} s",
                    retry_after=RETRY_AFTER,
                    facts={self._what.partition(" ")[0]: self.taken},
                )
            _, had = self.guests.get(guest, (peer, 0))
            self.guests[guest] = peer, had + count
            self._by_peer[peer] = self._by_peer.get(peer, 0) + count
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
            peer, had = found
            left = self._by_peer[peer] - had
            if left:
                self._by_peer[peer] = left
            else:
                del self._by_peer[peer]

    def has_room(self, guest: Guest) -> bool:
        """Whether the guest would be given one place now."""
        return self.taken < self.free_for_all or self._why_not(guest.peer, 1) is None

    @property
    def is_loose(self) -> bool:
        """Whether so many are free that those who wait may try again."""
        return self.taken < self._most - self._reserve

    def _why_not(self, peer: str, count: int) -> str | None:
        """Returns why a connection is given no more; None where it is."""
        own = self._by_peer.get(peer, 0)
        if self.taken + count > self._most:
            # One alone always fits.
            if not self.taken:
                return None
            return (
                f"{self.taken} {self._what} are in flight and {count} more would exceed "
                f"{self._most} ({self._setting})"
            )
        if own + count > self._share and self._is_wanted_by_others(peer):
            return (
                f"{self.taken} {self._what} are in flight, and this connection has its share of "
                f"those that are left to others (connection_share)"
            )
        return None

    def _is_reserved_for(self, peer: str, count: int) -> bool:
        """Whether a connection has none of the second half, and the reserve has as many."""
        taken = sum(self._from_reserve.values())
        return peer not in self._by_peer and taken + count <= self._reserve

    def _is_wanted_by_others(self, peer: str) -> bool:
        others = len(self._by_peer) - (peer in self._by_peer)
        refused, until = self._refused
        return others > 0 or (refused != peer and time.monotonic() < until)
