"""Signals that a process waits for, and hears whatever it is doing when they come."""

import signal
import socket
from collections.abc import Iterable


class Signals:
    """Where the main thread waits for a signal, or for another thread to wake it.

    A handler written in Python runs in the main thread, between two of its instructions. One that
    comes just as that thread goes to wait for a lock runs when the lock is free, which may be
    never. So what is waited for here is a byte in a socket: the handler below Python writes it, in
    whichever thread it runs.

    Args:
        numbers: The signals that no longer end the process.

    Raises:
        ValueError: This is not the main thread.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def wait(self) -> int:
        """Waits for what comes next: the number of a signal, or 0 after `wake`."""
        return self._reader.recv(1)[0]

    def wake(self) -> None:
        """Ends a wait; from any thread."""
        self._writer.send(b"\0")
