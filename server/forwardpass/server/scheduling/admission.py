"""Bounds what the server holds at a time, so that overload is refused at once and not queued."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from forwardpass.server.errors import CallError, InvalidInput
from forwardpass.server.scheduling.places import RETRY_AFTER, Guest, Places
from forwardpass.wire import Reason


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The most that a server holds at a time.

    Attributes:
        calls: Calls that run models, and requests of streams.
        bytes: Bytes of their requests, and of what these become. One call alone always fits.
        streams: Streams of requests.
        watches: Calls that watch health.
        share: Of the second half of each, the part that one connection, or one token, may have
            while others want some.
    """

    calls: int
    bytes: int
    streams: int
    watches: int
    share: float = 0.5


class Admission:
    """Counts the calls that are in flight, and what they hold.

    Args:
        limits: The most of each.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        share = limits.share
        self._calls = Places("calls", "max_in_flight", limits.calls, share)
        self._bytes = Places("bytes of requests", "max_in_flight_bytes", limits.bytes, share)
        self._streams = Places("streams", "max_streams", limits.streams, share)
        self._watches = Places("watches", "max_watches", limits.watches, share)
        self._most_bytes = limits.bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._turned_away = 0
        self._idle_awaited = False
        # Streams that wait for room, and what tells them that there is some.
        self._waiting: dict[Guest, Callable[[], None]] = {}

    @property
    def calls(self) -> int:
        """How many calls are in flight, and requests of streams."""
        return self._calls.taken

    @property
    def bytes(self) -> int:
        """Bytes of their requests, and of what these have become."""
        return self._bytes.taken

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams.taken

    @property
    def watches(self) -> int:
        """How many calls watch health."""
        return self._watches.taken

    def enter(self, call: Guest, size: int) -> None:
        """Takes a call of `size` bytes in; `leave` must follow.

        Raises:
            CallError: QUEUE_FULL, or SHUTTING_DOWN after `close`.
        """
        # Here and in `leave`, which every call comes by, a `with` would cost twice as much.
        self._lock.acquire()
        try:
            if self._closed:
                raise self._turn_away()
            calls, held = self._calls, self._bytes
            if calls.taken < calls.free_for_all and held.taken + size <= held.free_for_all:
                calls.taken += 1
                held.taken += size
                return
            calls.take(call)
            try:
                held.take(call, size)
            except CallError:
                calls.leave(call)
                raise
        finally:
            self._lock.release()

    def enter_from_stream(self, call: Guest, size: int) -> None:
        """Takes a request of a stream in, which `may_read` made room for.

        `leave_from_stream` must follow, whether or not it raises.

        Raises:
            CallError: QUEUE_FULL: it is in, but may not be answered.
        """
        self._lock.acquire()
        try:
            calls, held = self._calls, self._bytes
            if calls.taken < calls.free_for_all and held.taken + size <= held.free_for_all:
                calls.taken += 1
                held.taken += size
            else:
                calls.take(call, force=True)
                held.take(call, size, force=True)
        finally:
            self._lock.release()

    def may_read(self, stream: Guest) -> bool:
        """Whether there is room for a request of a stream, before it is taken in."""
        calls, held = self._calls, self._bytes
        # Each is read at once; where they run short they are looked at under the lock.
        if calls.taken < calls.free_for_all and held.taken < held.free_for_all:
            return True
        with self._lock:
            return calls.has_room(stream) and held.has_room(stream)

    def wait(self, stream: Guest, again: Callable[[], None]) -> None:
        """Has `again` called, on any thread, once a stream that may not read should ask again."""
        with self._lock:
            # Somebody may have left since it asked.
            has_room = self._calls.has_room(stream) and self._bytes.has_room(stream)
            if not has_room:
                self._waiting[stream] = again
        if has_room:
            again()

    def hold(self, call: Guest, size: int) -> None:
        """Counts `size` bytes more for a call that is in; `leave` must give them back too.

        Raises:
            CallError: QUEUE_FULL.
            InvalidInput: There are never as many.
        """
        if size > self._most_bytes:
            raise InvalidInput(
                f"the request becomes {size} bytes, but all requests at a time may have "
                f"{self._most_bytes} (max_in_flight_bytes); send fewer rows",
                expected=self._most_bytes,
                got=size,
            )
        with self._lock:
            self._bytes.take(call, size, force=self._calls.taken == 1)

    def leave(self, call: Guest, size: int) -> None:
        """Lets a call out that came in with, and took, `size` bytes."""
        self._lock.acquire()
        try:
            calls, held = self._calls, self._bytes
            calls.taken -= 1
            held.taken -= size
            if calls.guests:
                calls.forget(call)
            if held.guests:
                held.forget(call)
            if self._idle_awaited and not calls.taken:
                self._changed.notify_all()
            if not self._waiting:
                return
            waiting: Mapping[Guest, Callable[[], None]] = {}
            if calls.is_loose and held.is_loose:
                waiting, self._waiting = self._waiting, {}
        finally:
            self._lock.release()
        for again in waiting.values():
            again()

    # Two names, as a subclass may count them apart.
    leave_from_stream = leave

    def enter_stream(self, call: Guest, _: int) -> None:
        """Takes a stream in, which has no request yet; `leave_stream` must follow.

        Raises:
            CallError: QUEUE_FULL, or SHUTTING_DOWN after `close`.
        """
        with self._lock:
            if self._closed:
                raise self._turn_away()
            self._streams.take(call)

    def leave_stream(self, call: Guest, _: int) -> None:
        """Lets a stream out."""
        with self._lock:
            self._streams.leave(call)
            self._waiting.pop(call, None)
            self._changed.notify_all()

    def enter_watch(self, call: Guest, _: int) -> None:
        """Takes a call in that watches health; `leave_watch` must follow.

        Raises:
            CallError: QUEUE_FULL.
        """
        with self._lock:
            self._watches.take(call)

    def leave_watch(self, call: Guest, _: int) -> None:
        """Lets a call out that watched health."""
        with self._lock:
            self._watches.leave(call)

    def close(self) -> None:
        """Takes no more calls, and no more streams."""
        with self._lock:
            self._closed = True

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until nothing is in flight; whether that came true."""
        with self._lock:
            self._idle_awaited = True
            return self._changed.wait_for(lambda: not self.calls + self.streams, timeout)

    def wait_quiet(self, quiet: float, timeout: float) -> None:
        """Waits until, after `close`, no caller has had to be turned away for `quiet` seconds.

        Gives up after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        with self._lock:
            while (left := end - time.monotonic()) > 0:
                more = partial(self._more_than, self._turned_away)
                if not self._changed.wait_for(more, min(quiet, left)):
                    return

    def _more_than(self, turned_away: int) -> bool:
        return self._turned_away > turned_away

    def _turn_away(self) -> CallError:
        self._turned_away += 1
        self._changed.notify_all()
        return CallError(
            Reason.SHUTTING_DOWN,
            "the server is shutting down; send the call to another",
            retry_after=RETRY_AFTER,
        )
