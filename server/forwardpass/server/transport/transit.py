"""Messages on their way between callers and us, and which of them end where memory runs short.

gRPC core tells how long a message is once all of it is there, and takes an answer as a whole. So
what a slow caller sends may become as long as the longest message allowed, and what one does not
read stays. Most messages are on their way for less than a millisecond. Those that take longer are
counted here, one that comes in by the longest that it may be; and where that is more than the
memory there is, the longest under way of the connection that holds most is ended. Nobody waits for
it: what is new is let in at once.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forwardpass.wire import Failure, Reason

# A message under way for less is not counted, in seconds: what may arrive meanwhile has room in
# what is kept free.
YOUNG_SECONDS = 0.005
# What has been under way for less is only ended where memory is short already.
_PATIENCE_SECONDS = 0.25
# How soon the memory is looked at again, and how soon what was freed is given back to the system.
_LOOK_SECONDS, _TRIM_SECONDS = 0.05, 0.5
# Of the memory there is, this part is kept free of messages under way, and that part they may
# have whatever else there is.
_FREE_PART, _OWN_PART = 8, 16
# What a call is told that is ended.
NO_ROOM = Failure(
    Reason.QUEUE_FULL,
    "the server's memory is short, and of the messages under way this connection has the most: it "
    "came in, or was read, too slowly; try again in 0.1 s",
    retry_after=0.1,
)


class Transfer(Hashable, Protocol):
    """A message under way."""

    @property
    def peer(self) -> str:
        """The connection's other end."""

    def evict(self) -> None:
        """Ends the call that the message is of."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much memory there is.

    Attributes:
        limit: Bytes in all.
        available: Bytes that nobody has taken.
    """

    limit: int
    available: int


@dataclass(slots=True)
class _Slow:
    size: int
    since: float


@dataclass(slots=True)
class _Connection:
    """What a connection has under way: bytes in all, and each message, the oldest first."""

    bytes: int = 0
    transfers: deque[Transfer] = field(default_factory=deque)


class Transit:
    """The messages under way. One thread at a time may use it.

    Attributes:
        bytes: Of those that have been under way for long: the most that they may come to.
        evicted: How many were ended.

    Args:
        measure: Tells how much memory there is; that may take a millisecond.
        trim: Gives what was freed back to the system, as far as that is not done by itself.
    """

    def __init__(self, measure: Callable[[], Room], trim: Callable[[], None]) -> None:
        self._measure = measure
        self._trim = trim
        self._own = measure().limit // _OWN_PART
        # Each with its length and when it began, by `time.perf_counter`; the oldest first.
        self._young: dict[Transfer, tuple[int, float]] = {}
        self._slow: dict[Transfer, _Slow] = {}
        self._looked_at = self._trimmed_at = 0.0
        self.bytes = 0
        self.evicted = 0

    def begin(self, transfer: Transfer, size: int, now: float) -> None:
        """Says that a message is under way.

        Args:
            transfer: The message.
            size: Bytes that it has, or may have.
            now: The time, by `time.perf_counter`.
        """
        self._young[transfer] = size, now

    def grow(self, transfer: Transfer, size: int) -> None:
        """Says that so many bytes more wait to go the same way."""
        if (young := self._young.get(transfer)) is not None:
            self._young[transfer] = young[0] + size, young[1]
        elif (slow := self._slow.get(transfer)) is not None:
            slow.size += size
            self.bytes += size

    def end(self, transfer: Transfer) -> None:
        """Says that it is not any more, whatever has become of it."""
        if self._young.pop(transfer, None) is None:
            slow = self._slow.pop(transfer, None)
            if slow is not None:
                self.bytes -= slow.size

    def look(self) -> float | None:
        """Ends what there is no room for.

        Returns:
            After how many seconds to look again, if nothing happens until then; None where nothing
            is under way that would have to be looked after.
        """
        if self._young:
            self._age(time.perf_counter())
        if self.bytes > self._own:
            self._relieve()
            return YOUNG_SECONDS if self._young else _LOOK_SECONDS
        return YOUNG_SECONDS if self._young else None

    def _age(self, now: float) -> None:
        """Counts the messages that have been under way for long."""
        aged = []
        for transfer, (size, since) in self._young.items():
            if now - since < YOUNG_SECONDS:
                break
            aged.append((transfer, _Slow(size, since)))
        for transfer, slow in aged:
            del self._young[transfer]
            self._slow[transfer] = slow
            self.bytes += slow.size

    def _relieve(self) -> None:
        """Ends messages until those that are left fit into the memory there is."""
        now = time.perf_counter()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        room = self._measure()
        kept_free = room.limit // _FREE_PART
        if self._excess(room, kept_free) > 0 and now - self._trimmed_at >= _TRIM_SECONDS:
            self._trim()
            self._trimmed_at = now
            room = self._measure()
        patience = 0.0 if room.available < kept_free else _PATIENCE_SECONDS
        excess = self._excess(room, kept_free)
        connections = _by_connection(self._slow) if excess > 0 else []
        while excess > 0:
            heaviest = max(connections, key=lambda connection: connection.bytes)
            transfer = heaviest.transfers.popleft()
            slow = self._slow[transfer]
            if now - slow.since < patience:
                break
            heaviest.bytes -= slow.size
            excess -= slow.size
            self.end(transfer)
            self.evicted += 1
            transfer.evict()
        self._looked_at = time.perf_counter()

    def _excess(self, room: Room, kept_free: int) -> int:
        return self.bytes - max(room.available - kept_free, self._own)


def _by_connection(slow: Mapping[Transfer, _Slow]) -> list["_Connection"]:
    """Returns what each connection has under way."""
    found: dict[str, _Connection] = {}
    for transfer, one in slow.items():
        connection = found.setdefault(transfer.peer, _Connection())
        connection.bytes += one.size
        connection.transfers.append(transfer)
    return list(found.values())
