"""Lines on their way to a descriptor whose reader may be slow, stop, or go."""

import os
import queue
import threading
from collections.abc import Callable

# What may wait: a burst at log level debug, or a reader that pauses.
_MOST_LINES = 4096
_MOST_BYTES = 1 << 20


class LogWriter:
    """A thread that writes lines, and a bounded queue before it.

    Whoever puts a line there neither waits nor fails: a line that finds the queue full is dropped,
    and so is one that cannot be written, as to a full disk. Where lines are missing, the next one
    that is written is preceded by a notice of how many. Each line is one write, as several
    processes may share the descriptor.

    Args:
        descriptor: Where the lines go.
        notice: Returns the line that tells how many are missing.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        # Reentrant: a finalizer, which may run at any allocation, may have something to say.
        self._lock = threading.RLock()
        # Each line with how many had been refused before it; None after the last.
        self._queue: queue.SimpleQueue[tuple[bytes | None, int]] = queue.SimpleQueue()
        self._closed = False
        self._lines = self._bytes = 0
        self._refused = self._unwritten = self._told = 0
        self._is_torn = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were not written, and will not be."""
        return self._refused + self._unwritten

    def put(self, line: bytes) -> None:
        """Has a line written, or drops it.

        Args:
            line: The line, without its end.
        """
        size = len(line) + 1
        with self._lock:
            if self._closed or self._lines >= _MOST_LINES or self._bytes + size > _MOST_BYTES:
                self._refused += 1
                return
            self._lines += 1
            self._bytes += size
            self._queue.put((line + b"\n", self._refused))

    def close(self, timeout: float) -> None:
        """Takes no more lines, and waits up to `timeout` seconds until the last is written."""
        with self._lock:
            self._closed = True
            self._queue.put((None, self._refused))
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Waits for a line and writes it; False after the last."""
        line, refused = self._queue.get()
        missing = refused + self._unwritten - self._told
        # Where the notice cannot be written, the line could not either.
        can_write = not missing or self._write(self._notice(missing) + b"\n")
        if can_write:
            self._told += missing
        if line is None:
            return False
        if not can_write or not self._write(line):
            self._unwritten += 1
        with self._lock:
            self._lines -= 1
            self._bytes -= len(line)
        return True

    def _write(self, line: bytes) -> bool:
        """Writes a line; whether that was possible."""
        # What there was room for of an earlier one stays a line of its own.
        rest = b"\n" + line if self._is_torn else line
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
                self._is_torn = bool(rest)
        except OSError:
            return False
        return True
