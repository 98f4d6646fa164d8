"""Messages on their way between callers and us, and which of them end where memory runs short.

gRPC core tells how long a message is once all of it is there, and takes an answer as a whole. So
what a slow caller sends may become as long as the longest message allowed, and what one does not
read stays. A message is asked for as if it were the longest: no more are at a time than there is
room kept for, the others wait, and hold nothing but what core takes in unasked. Most are there in
less than a millisecond. One that has not come, or not been taken, in five is slow, and makes room
for others: it is counted among the slow ones, and where these are more than the memory there is,
the longest under way of the connection that holds most is ended.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forwardpass.wire import Failure, Reason

# A message under way for longer is slow, in seconds.
YOUNG_SECONDS = 0.005
# What has been under way for less is only ended where memory is short already.
_PATIENCE_SECONDS = 0.25
# How soon the memory is looked at again, and how soon what was freed is given back to the system.
_LOOK_SECONDS, _TRIM_SECONDS = 0.05, 0.5
# Of the memory there is, this part is kept for messages that come in, and as much is the slow ones'
# whatever else there is. Slow ones leave that part to what is being worked on, and where half of it
# is gone memory is short.
_ARRIVING_PART, _SLOW_PART, _FREE_PART = 16, 16, 4
# The most that wait to be asked for, as far as their connections have more than one.
_MOST_WAITING = 256
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


class Arrival(Transfer, Protocol):
    """A message that comes in."""

    def ask(self) -> bool:
        """Asks for it; False where nobody wants it any more."""


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
        arriving: What comes in, with when it was asked for, by `time.perf_counter`; the oldest
            first. The slow ones are left out.
        leaving: What goes out, with when that began, and its length.
        bytes: Of the slow ones: the most that they may come to.
        most_slow: How many of these bytes there is always room for.
        evicted: How many were ended.

    Args:
        max_message_bytes: The longest message.
        measure: Tells how much memory there is; that may take a millisecond.
        trim: Gives what was freed back to the system, as far as that is not done by itself.
    """

    def __init__(
        self, max_message_bytes: int, measure: Callable[[], Room], trim: Callable[[], None]
    ) -> None:
        self._longest = max_message_bytes
        self._measure = measure
        self._trim = trim
        limit = measure().limit
        self._most_arriving = max(1, limit // _ARRIVING_PART // max_message_bytes)
        self.most_slow = limit // _SLOW_PART
        # By connection; they take turns.
        self._waiting: dict[str, deque[Arrival]] = {}
        self._waiting_count = 0
        self.arriving: dict[Arrival, float] = {}
        self.leaving: dict[Transfer, tuple[float, int]] = {}
        self._slow: dict[Transfer, _Slow] = {}
        self._looked_at = self._trimmed_at = 0.0
        self.bytes = 0
        self.evicted = 0

    def receive(self, arrival: Arrival, now: float) -> None:
        """Has a message asked for, once there is room.

        Args:
            arrival: The message.
            now: The time, by `time.perf_counter`.
        """
        if len(self.arriving) < self._most_arriving:
            if arrival.ask():
                self.arriving[arrival] = now
        else:
            self._wait(arrival)

    def received(self, arrival: Arrival) -> None:
        """Says that a message is there, or will not come any more."""
        if self.arriving.pop(arrival, None) is None:
            self._forget_slow(arrival)
        if self._waiting:
            self._ask_for_more(time.perf_counter())

    def send(self, transfer: Transfer, size: int, now: float) -> None:
        """Says that an answer of `size` bytes is being sent, by `time.perf_counter` from `now`."""
        self.leaving[transfer] = now, size

    def send_more(self, transfer: Transfer, size: int) -> None:
        """Says that so many bytes more wait to go the same way."""
        if (known := self.leaving.get(transfer)) is not None:
            self.leaving[transfer] = known[0], known[1] + size
        elif (slow := self._slow.get(transfer)) is not None:
            slow.size += size
            self.bytes += size

    def sent(self, transfer: Transfer) -> None:
        """Says that an answer has been taken, or never will be."""
        if self.leaving.pop(transfer, None) is None:
            self._forget_slow(transfer)

    def may_be_slow(self, now: float) -> Transfer | None:
        """Returns a message that has been under way for so long that it may be slow, if any."""
        for arrival, since in self.arriving.items():
            if now - since >= YOUNG_SECONDS:
                return arrival
            break
        for transfer, (since, _) in self.leaving.items():
            if now - since >= YOUNG_SECONDS:
                return transfer
            break
        return None

    def age(self, before: float) -> None:
        """Counts as slow what is not there yet and was asked for, or begun to be sent, earlier.

        Args:
            before: By `time.perf_counter`. What came until then must have been taken in: a message
                that waits for us is not slow.
        """
        arriving = [one for one, since in self.arriving.items() if since <= before]
        for arrival in arriving:
            self._slow[arrival] = _Slow(self._longest, self.arriving.pop(arrival))
            self.bytes += self._longest
        leaving = [one for one, (since, _) in self.leaving.items() if since <= before]
        for transfer in leaving:
            since, size = self.leaving.pop(transfer)
            self._slow[transfer] = _Slow(size, since)
            self.bytes += size
        if arriving and self._waiting:
            self._ask_for_more(time.perf_counter())

    def look(self) -> float | None:
        """Ends what there is no room for.


        Returns:
            After how many seconds to look again, if nothing happens until then; None where nothing
            is under way that would have to be looked after.
        """
        if self.bytes > self.most_slow:
            self._relieve()
        if self.arriving or self.leaving:
            return YOUNG_SECONDS
        return _LOOK_SECONDS if self.bytes > self.most_slow else None

    def _wait(self, arrival: Arrival) -> None:
        """Has a message wait its turn, unless too many do and its connection has one there."""
        waiting = self._waiting.setdefault(arrival.peer, deque())
        if waiting and self._waiting_count >= _MOST_WAITING:
            self.evicted += 1
            arrival.evict()
            return
        waiting.append(arrival)
        self._waiting_count += 1

    def _ask_for_more(self, now: float) -> None:
        while self._waiting and len(self.arriving) < self._most_arriving:
            peer = next(iter(self._waiting))
            waiting = self._waiting.pop(peer)
            arrival = waiting.popleft()
            self._waiting_count -= 1
            if waiting:
                # It is the turn of all others first.
                self._waiting[peer] = waiting
            if arrival.ask():
                self.arriving[arrival] = now

    def _forget_slow(self, transfer: Transfer) -> None:
        slow = self._slow.pop(transfer, None)
        if slow is not None:
            self.bytes -= slow.size

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
        patience = 0.0 if room.available < kept_free // 2 else _PATIENCE_SECONDS
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
            self._forget_slow(transfer)
            self.evicted += 1
            transfer.evict()
        self._looked_at = time.perf_counter()

    def _excess(self, room: Room, kept_free: int) -> int:
        return self.bytes - max(room.available - kept_free, self.most_slow)


def _by_connection(slow: Mapping[Transfer, _Slow]) -> list["_Connection"]:
    """Returns what each connection has under way."""
    found: dict[str, _Connection] = {}
    for transfer, one in slow.items():
        connection = found.setdefault(transfer.peer, _Connection())
        connection.bytes += one.size
        connection.transfers.append(transfer)
    return list(found.values())
