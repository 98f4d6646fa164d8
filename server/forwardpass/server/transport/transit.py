"""Messages on their way between callers and us, and which of them end where memory runs short.

gRPC core tells how long a message is once all of it is there, and takes an answer as a whole. So
what a slow caller sends may become as long as the longest message allowed, and what one does not
read stays. A message is asked for as if it were the longest: no more are at a time than there is
room kept for, the others wait, and hold nothing but what core takes in unasked. Most are there in
less than a millisecond. One that has not come, or not been taken, in five is slow, and makes room
for others: it is counted among the slow ones. Where these come to more than the memory there is, no
more messages are asked for, and the longest under way of the account that holds most is ended.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from forwardpass.server.transport.turns import Turns
from forwardpass.wire import Failure, Reason

# A message under way for longer is slow, in seconds.
YOUNG_SECONDS = 0.005
# What has been under way for less is only ended where memory is short already.
_PATIENCE_SECONDS = 0.25
# How soon the memory is looked at again, and how soon what was freed is given back to the system.
_LOOK_SECONDS, _TRIM_SECONDS = 0.05, 0.5
# And after how many without slow messages memory is given back, where they were more than this part
# of the limit.
_QUIET_SECONDS, _SWOLLEN_PART = 1.0, 64
# Of the memory there is, this part is kept for messages that come in, and as much is the slow ones'
# whatever else there is.
_ARRIVING_PART, _SLOW_PART = 16, 16
# Slow ones leave that part to what is being worked on, or so many of the longest messages, but at
# most that part: two that core unpacks, one that it gives us, which is there three times then, one
# that is run with what comes out, and an answer. Where half of that is gone memory is short.
_FREE_PART, _FREE_MESSAGES, _MOST_FREE_PART = 4, 10, 2
# Longer messages let those wait that come after them.
LONG_BYTES = 1 << 18
# Answers below this are looked after once there are more than that on their way.
SMALL_BYTES, MOST_UNREAD = 1 << 14, 1024
# The most that wait to be asked for, as far as their accounts have more than one.
_MOST_WAITING = 16_384
# Instead of when a message was asked for, and later than any time: it is there and waits for us, or
# core is being asked for it.
_HERE, _ASKING = math.inf, 1e300
# What a call is told that is ended.
_NO_ROOM = Failure(
    Reason.QUEUE_FULL,
    "the server's memory is short, and of the messages under way this caller has the most: it "
    "came in, or was read, too slowly; try again in 0.1 s",
    retry_after=0.1,
)
_NO_TURN = Failure(
    Reason.QUEUE_FULL,
    f"{_MOST_WAITING} messages wait to be taken in, others of this caller among them; try "
    "again in 0.1 s",
    retry_after=0.1,
)


class Transfer(Hashable, Protocol):
    """A message under way."""

    @property
    def account(self) -> Hashable:
        """Whose it is: its token's where calls have to carry one, else its connection's."""

    @property
    def unsent(self) -> int:
        """How many bytes wait to be taken, where it goes out."""

    def evict(self, why: Failure) -> None:
        """Ends the call that the message is of."""


class Arrival(Transfer, Protocol):
    """A message that comes in."""

    @property
    def has_ended(self) -> bool:
        """Whether nobody wants it any more."""

    def ask(self) -> None:
        """Asks for it."""

    def ask_apart(self) -> None:
        """Asks for it where others need not wait while it is unpacked."""


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
class Slow:
    """A message that is slow.

    Attributes:
        size: How many bytes it may come to.
        since: When it began, by `time.perf_counter`.
        is_evicted: Whether its call has been ended, and core may still be at work on it.
    """

    size: int
    since: float
    is_evicted: bool = False


@dataclass(slots=True)
class _Account:
    """What an account has under way: bytes in all, and each message, the oldest first."""

    bytes: int = 0
    transfers: deque[Transfer] = field(default_factory=deque)


class Transit:
    """The messages under way. One thread at a time may use it.

    Every message passes here, so who asks for one, or sends one, writes that down itself.

    Attributes:
        arriving: What has been asked for, with when that was, by `time.perf_counter`; the oldest
            first, but for what has come already. Without the slow ones.
        most_arriving: How many there may be at most.
        places: How many there may be now.
        waiting: What is to be asked for in its turn.
        leaving: What is being sent, with when that began, without the slow ones.
        slow: The slow ones.
        bytes: Of the slow ones: the most that they may come to.
        most_slow: How many of these bytes there is always room for.
        is_swollen: Whether they were many, and what was freed since is not given back.
        unread: How many small answers of calls are being sent that nobody looks after.
        on_read: Says that one of those has been taken, or never will be.
        evicted: How many messages were ended.
        copies: How often a slow message that comes in may be there, until it is ours.

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
        self.arriving: dict[Arrival, float] = {}
        self.most_arriving = max(1, limit // _ARRIVING_PART // max_message_bytes)
        self.places = self.most_arriving
        self.waiting: Turns[Arrival] = Turns()
        self.leaving: dict[Transfer, float] = {}
        self.slow: dict[Transfer, Slow] = {}
        self.bytes = 0
        self.most_slow = limit // _SLOW_PART
        self.is_swollen = False
        self._many = min(self.most_slow, limit // _SWOLLEN_PART)
        # What there was room for when the memory was looked at.
        self._room_for_slow = self.most_slow
        self.unread = 0
        # Made once: each answer has it as its tag.
        self.on_read: Callable[[object], None] = self._read
        self.evicted = 0
        self.copies = 1
        # Of the slow ones: those that are evicted, and that core may still be at work on.
        self._going = 0
        self._looked_at = self._trimmed_at = self._many_at = 0.0

    def shared_by_threads(self, copies: int) -> None:
        """Says that each message is taken in by a thread of its own, and not one after another.

        Args:
            copies: How often a message is there meanwhile.
        """
        self.copies = copies
        # One that is slow for want of a core is not ended for it.
        self.most_slow = self._room_for_slow = max(self.most_slow, copies * self._longest)

    def wait(self, arrival: Arrival) -> None:
        """Has a message asked for in its turn: there is no room for it.

        Too many do not wait, as far as their accounts have more than one.
        """
        if self.waiting.count >= _MOST_WAITING and self.waiting.has(arrival.account):
            self.evicted += 1
            arrival.evict(_NO_TURN)
        else:
            self.waiting.add(arrival)
            self.ask_for_more()

    def was_long(self, arrival: Arrival) -> None:
        """Says that a message has more than `LONG_BYTES`."""
        self.waiting.sent_long(arrival.account)

    def came(self, arrival: Arrival) -> None:
        """Says that a message is there, and waits for us: it gets no slower, and keeps its room."""
        if self.arriving.pop(arrival, None) is not None:
            self.arriving[arrival] = _HERE

    def begin_asking(self, arrival: Arrival) -> None:
        """Says that core is being asked for a message, which it may have to unpack first."""
        self.arriving[arrival] = _ASKING

    def end_asking(self, arrival: Arrival) -> None:
        """Says that core has been asked: a message that has not come gets slow from now on."""
        if self.arriving.get(arrival) == _ASKING:
            del self.arriving[arrival]
            self.arriving[arrival] = time.perf_counter()

    def received(self, arrival: Arrival) -> None:
        """Makes room for others: a message is there, or will not come any more."""
        if self.arriving.pop(arrival, None) is None:
            self._forget_slow(arrival)
        if self.waiting.count:
            self.ask_for_more()

    def sent(self, transfer: Transfer) -> None:
        """Says that an answer has been taken, or never will be."""
        if self.leaving.pop(transfer, None) is None:
            self._forget_slow(transfer)
            if self.waiting.count:
                self.ask_for_more()

    def _read(self, _: object) -> None:
        self.unread -= 1

    def grow(self, transfer: Transfer, size: int) -> None:
        """Says that so many bytes more wait behind an answer that is slow."""
        slow = self.slow.get(transfer)
        if slow is not None:
            slow.size += size
            if slow.is_evicted:
                self._going += size
            self._count_bytes(size)

    def ask_for_more(self) -> None:
        """Asks for messages that wait, as many as there are places.

        One place more is kept for accounts that are not known to send long ones, so that they
        need not wait for those of others.
        """
        waiting = self.waiting
        while waiting.count and len(self.arriving) <= self.places:
            is_kept = len(self.arriving) == self.places
            if is_kept and self._is_kept_for_later():
                return
            arrival = waiting.pop_short() if is_kept else waiting.pop()
            if arrival is None:
                return
            if not arrival.has_ended:
                self.arriving[arrival] = time.perf_counter()
                if waiting.may_be_long(arrival):
                    arrival.ask_apart()
                else:
                    arrival.ask()

    def _is_kept_for_later(self) -> bool:
        """Whether one more could be too much: of one that a thread takes in, nobody tells whether
        it is on its way or is being unpacked.
        """
        size = self.copies * self._longest
        return self.copies > 1 and self.bytes > self._room_for_slow + size

    def may_be_slow(self, now: float) -> Transfer | None:
        """Returns a message that has been under way for so long that it may be slow, if any."""
        for young in (self.arriving, self.leaving):
            for transfer, since in young.items():
                if now - since >= YOUNG_SECONDS:
                    return transfer
                if since <= now:
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
            self._count_slow(arrival, self.copies * self._longest, self.arriving.pop(arrival))
        leaving = [one for one, since in self.leaving.items() if since <= before]
        for transfer in leaving:
            # Core makes a copy of what it sends.
            self._count_slow(transfer, 2 * transfer.unsent, self.leaving.pop(transfer))
        if arriving:
            self.ask_for_more()

    def look(self) -> float | None:
        """Ends what there is no room for.

        Returns:
            After how many seconds to look again, if nothing happens until then; None where nothing
            is under way that would have to be looked after.
        """
        if self.bytes > self.most_slow:
            self._relieve()
        elif self.is_swollen and self.bytes <= self._many:
            self._shrink()
        if self.arriving or self.leaving:
            return YOUNG_SECONDS
        return _LOOK_SECONDS if self.is_swollen else None

    def _forget_slow(self, transfer: Transfer) -> None:
        slow = self.slow.pop(transfer, None)
        if slow is not None:
            if slow.is_evicted:
                self._going -= slow.size
            self._count_bytes(-slow.size)

    def _count_slow(self, transfer: Transfer, size: int, since: float) -> None:
        self.slow[transfer] = Slow(size, since)
        self._count_bytes(size)

    def _count_bytes(self, more: int) -> None:
        before = self.bytes
        self.bytes += more
        if self.bytes <= self.most_slow:
            self._room_for_slow = self.most_slow
        if max(before, self.bytes) > self._many:
            self.is_swollen = True
            self._many_at = time.perf_counter()
        # What is asked for while others are slow has to have room to become slow as well.
        more = (self.copies - 1) * self._longest if self.bytes else 0
        self.places = 0 if self.bytes + more > self._room_for_slow else self.most_arriving

    def _relieve(self) -> None:
        """Ends messages until those that are left fit into the memory there is."""
        now = time.perf_counter()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        room = self._measure()
        kept_free = max(
            room.limit // _FREE_PART,
            min(_FREE_MESSAGES * self._longest, room.limit // _MOST_FREE_PART),
        )
        is_short = self.bytes > room.available - kept_free
        if is_short and now - self._trimmed_at >= _TRIM_SECONDS:
            self._trim()
            self._trimmed_at = now
            room = self._measure()
        patience = 0.0 if room.available < kept_free // 2 else _PATIENCE_SECONDS
        self._room_for_slow = max(room.available - kept_free, self.most_slow)
        # What is going makes room as well, once it has gone.
        excess = self.bytes - self._going - (self._room_for_slow + self._going)
        accounts = _by_account(self.slow) if excess > 0 else []
        while excess > 0:
            heaviest = max(accounts, key=lambda account: account.bytes)
            transfer = heaviest.transfers.popleft()
            slow = self.slow[transfer]
            if now - slow.since < patience:
                break
            heaviest.bytes -= slow.size
            excess -= slow.size
            if self.copies == 1:
                self._forget_slow(transfer)
            else:
                # A thread of core may go on to unpack it, and tells no sooner that it has ended.
                slow.is_evicted = True
                self._going += slow.size
            self.evicted += 1
            transfer.evict(_NO_ROOM)
        self._count_bytes(0)
        self.ask_for_more()
        self._looked_at = time.perf_counter()

    def _shrink(self) -> None:
        """Gives back what was freed, once it has been quiet for a while: it takes milliseconds."""
        now = time.perf_counter()
        if now - self._many_at >= _QUIET_SECONDS:
            self._trim()
            self._trimmed_at = now
            self.is_swollen = False


def _by_account(slow: Mapping[Transfer, Slow]) -> list["_Account"]:
    """Returns what each account has under way."""
    found: dict[Hashable, _Account] = {}
    for transfer, one in slow.items():
        if one.is_evicted:
            continue
        account = found.setdefault(transfer.account, _Account())
        account.bytes += one.size
        account.transfers.append(transfer)
    return list(found.values())
