"""A client's channel: opened at its first call, and of the process that makes it."""

import os
import threading
from collections.abc import Callable

import grpc

from forwardpass.client.errors import Cancelled, Forked
from forwardpass.client.methods import Methods

# The process in which gRPC's core was first used, by any client.
_used_in: int | None = None


class Connection:
    """Opens a channel for the process that calls. Any thread may use it.

    gRPC's core does not work in a process that was forked from one that has used it: of twelve such
    children, each with a channel of its own, three were refused every call, and beside threads that
    were calling one died by a signal. A call there is refused before anything is tried. A child of
    a process that has made no call yet has nothing to fear.

    Attributes:
        is_closed: Whether `close` was called.

    Args:
        open_channel: Opens a channel.
    """

    def __init__(self, open_channel: Callable[[], grpc.Channel]) -> None:
        self._open = open_channel
        self._lock = threading.Lock()
        self.is_closed = False
        self._opened: tuple[int, grpc.Channel, Methods] | None = None

    @property
    def methods(self) -> Methods:
        """The calls, ready to be made.

        Raises:
            Forked: The process was forked from one that has used gRPC.
            Cancelled: It was closed.
        """
        opened = self._opened
        if opened is not None and opened[0] == os.getpid() and not self.is_closed:
            return opened[2]
        return self._begin()

    def close(self) -> None:
        """Ends the calls under way, and refuses others."""
        self.is_closed = True
        opened = self._opened
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def _begin(self) -> Methods:
        global _used_in  # noqa: PLW0603  # the core is the process's
        process = os.getpid()
        # Before the lock, which may have been held where the process was forked.
        if _used_in not in (None, process):
            raise Forked(
                f"process {process} was forked from process {_used_in} after that had called a "
                "server, and gRPC cannot be used in such a child: start it by spawn or forkserver "
                '(multiprocessing.set_start_method("spawn"), or a DataLoader with '
                'multiprocessing_context="spawn"), or let the first call be one of the child\'s'
            )
        _used_in = process
        with self._lock:
            if self.is_closed:
                raise Cancelled("the client was closed")
            if self._opened is None:
                channel = self._open()
                self._opened = process, channel, Methods(channel)
            return self._opened[2]
