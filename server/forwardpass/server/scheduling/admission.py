"""Bounds what the server holds at a time, so that overload is refused at once and not queued."""

import threading
import time
from functools import partial

from forwardpass.server.errors import CallError
from forwardpass.wire import Reason

# What a refused caller is asked to wait before it tries again, in seconds.
RETRY_AFTER = 0.1


class Admission:
    """Counts the calls that are in flight, and their bytes.

    Args:
        max_calls: The most calls at a time.
        max_bytes: The most bytes of requests at a time. One call alone always fits.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._turned_away = 0
        self._idle_awaited = False
        self.calls = 0
        self.bytes = 0

    def enter(self, size: int) -> None:
        """Takes a call of `size` bytes in; `leave` must follow.

        Raises:
            CallError: QUEUE_FULL, or SHUTTING_DOWN after `close`.
        """
        # Here and in `leave`, which every call comes by, a `with` would cost twice as much.
        self._lock.acquire()
        try:
            if self._closed:
                self._turned_away += 1
                self._changed.notify_all()
                raise CallError(
                    Reason.SHUTTING_DOWN,
                    "the server is shutting down; send the call to another",
                    retry_after=RETRY_AFTER,
                )
            if self.calls >= self._max_calls:
                raise CallError(
                    Reason.QUEUE_FULL,
                    f"{self.calls} calls are in flight, the most this server takes; "
                    f"try again in {RETRY_AFTER} s",
                    retry_after=RETRY_AFTER,
                    facts={"calls": self.calls},
                )
            if self.calls and self.bytes + size > self._max_bytes:
                raise CallError(
                    Reason.QUEUE_FULL,
                    f"{self.bytes} bytes of requests are in flight and {size} more would exceed "
                    f"{self._max_bytes}; try again in {RETRY_AFTER} s",
                    retry_after=RETRY_AFTER,
                    facts={"bytes": self.bytes},
                )
            self.calls += 1
            self.bytes += size
        finally:
            self._lock.release()

    def leave(self, size: int) -> None:
        """Lets a call out that `enter` took in."""
        self._lock.acquire()
        try:
            self.calls -= 1
            self.bytes -= size
            if self._idle_awaited and self.calls == 0:
                self._changed.notify_all()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Takes no more calls."""
        with self._lock:
            self._closed = True

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until no call is in flight; whether that came true."""
        with self._lock:
            self._idle_awaited = True
            return self._changed.wait_for(lambda: self.calls == 0, timeout)

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
