"""Ends runs on the transport's own thread that take far longer than was measured.

What a run took at load is no promise: values may make it longer, and every call of every model
waits for a run there.
"""

import threading
import time
from collections.abc import Callable

# How often a run under way is looked at, in seconds.
LOOK_SECONDS = 0.025


class Watchdog:
    """Watches one run at a time, from a thread of its own.

    The thread sleeps while no runs are made, and looks now and then while they are: to wake it up
    for each run would take longer than most runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_asleep = False
        self._stop: Callable[[], None] | None = None
        self._until = 0.0
        # Counts the runs that have ended.
        self._ended = 0
        self._was_stopped = False
        self._is_closed = False

    def begin(self, stop: Callable[[], None], seconds: float) -> None:
        """Begins to watch a run.

        Args:
            stop: Stops the run, from another thread.
            seconds: How long it may take.
        """
        self._until = time.monotonic() + seconds
        self._stop = stop
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        elif self._is_asleep:
            self._wake.set()

    def end(self) -> bool:
        """Watches the run no longer; whether it was stopped."""
        with self._lock:
            was_stopped, self._was_stopped = self._was_stopped, False
            self._stop = None
            self._ended += 1
        return was_stopped

    def close(self) -> None:
        """Ends the thread, after the last run."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        seen = -1
        while not self._is_closed:
            if self._stop is None and self._ended == seen:
                self._sleep(seen)
            seen = self._ended
            time.sleep(LOOK_SECONDS)
            with self._lock:
                stop = self._stop
                if stop is not None and time.monotonic() >= self._until and not self._was_stopped:
                    self._was_stopped = True
                    stop()

    def _sleep(self, seen: int) -> None:
        """Sleeps until a run begins, if none has since the last look."""
        self._wake.clear()
        self._is_asleep = True
        # Looked at again: who began a run before may not have seen that this sleeps.
        if self._stop is None and self._ended == seen and not self._is_closed:
            self._wake.wait()
        self._is_asleep = False
