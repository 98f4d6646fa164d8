"""A client's channels: opened at its first call, called in turn, and of the process that calls."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

from forwardpass.client.channel import Options, channel_options
from forwardpass.client.errors import Cancelled, Forked, InvalidSetting
from forwardpass.client.methods import Methods
from forwardpass.client.settings import Settings

Channel = TypeVar("Channel")
# Opens a channel to a target, secured where there are credentials, with core's options.
Opener = Callable[[str, grpc.ChannelCredentials | None, Options], Channel]

# For so many seconds a target that had no connection is passed over where there are others.
_PASSED_OVER = 1.0
# Seconds between two looks at the files of certificates.
_LOOK_SECONDS = 1.0
# The process in which gRPC's core was first used, by any client.
_used_in: int | None = None
_log = logging.getLogger("forwardpass.client")


@dataclass(eq=False, slots=True)
class Connection(Generic[Channel]):
    """One of a client's connections.

    Attributes:
        target: Where it goes.
        channel: Held as long as a call of it runs, as its end would be the call's.
        methods: The calls, ready to be made.
        failed_at: When it was last seen to have no connection, by `time.monotonic`.
    """

    target: str
    channel: Channel
    methods: Methods
    failed_at: float = float("-inf")


class Connections(Generic[Channel]):
    """Opens channels for the process that calls. Any thread may use them.

    gRPC's core does not work in a process that was forked from one that has used it: of twelve such
    children, each with a channel of its own, three were refused every call, and beside threads that
    were calling one died by a signal. A call there is refused before anything is tried. A child of
    a process that has made no call yet has nothing to fear.

    Where files of certificates change, new channels take over; calls under way keep theirs.

    Attributes:
        is_closed: Whether `close` was called.

    Args:
        settings: The client's.
        open_channel: Opens a channel.
    """

    def __init__(self, settings: Settings, open_channel: Opener[Channel]) -> None:
        self._settings = settings
        self._open = open_channel
        self._lock = threading.Lock()
        self.is_closed = False
        self._process = 0
        self._opened: list[Connection[Channel]] = []
        self._turn = 0
        self._watches = settings.tls is not None
        self._stamp: object = None
        self._looked = 0.0
        # Files that cannot be used are told before anything is called.
        self._credentials = settings.tls.credentials() if settings.tls else None

    def pick(self) -> Connection[Channel]:
        """Returns the connection whose turn it is.

        Raises:
            Forked: The process was forked from one that has used gRPC.
            Cancelled: The client was closed.
        """
        if self._process != os.getpid() or self.is_closed or (self._watches and self._is_due()):
            self._begin()
        opened = self._opened
        if len(opened) == 1:
            return opened[0]
        now = time.monotonic()
        # Two threads may take the same turn, which does no harm.
        for _ in opened:
            self._turn = turn = self._turn + 1
            connection = opened[turn % len(opened)]
            if now - connection.failed_at > _PASSED_OVER:
                break
        return connection

    def note_failure(self, connection: Connection[Channel]) -> None:
        """Passes over a target for a while that had no connection."""
        connection.failed_at = time.monotonic()

    def take(self) -> list[Channel]:
        """Closes, and returns the channels that are to be closed."""
        self.is_closed = True
        if self._process != os.getpid():
            return []
        return [connection.channel for connection in self._opened]

    def _is_due(self) -> bool:
        """Whether the files of certificates are to be looked at."""
        return self._settings.tls is not None and time.monotonic() - self._looked >= _LOOK_SECONDS

    def _begin(self) -> None:
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
            if self._have_files_changed() or not self._opened:
                self._opened = self._open_all()
            self._process = process

    def _have_files_changed(self) -> bool:
        """Whether there are new credentials, which are then those of new channels."""
        tls = self._settings.tls
        if tls is None:
            return False
        stamp, before = tls.stamp(), self._stamp
        self._looked, self._stamp = time.monotonic(), stamp
        if before is None or stamp == before:
            return False
        try:
            self._credentials = tls.credentials()
        except (OSError, InvalidSetting) as error:
            # As between the writes of two files that go together.
            _log.warning("the certificates as they were stay in use: %s", error)
            return False
        return True

    def _open_all(self) -> list[Connection[Channel]]:
        settings, opened = self._settings, []
        name = settings.tls.name if settings.tls else None
        options = channel_options(settings.max_message_bytes, name)
        for _ in range(settings.connections):
            for target in settings.targets:
                channel = self._open(target, self._credentials, options)
                opened.append(Connection(target, channel, Methods(channel)))
        return opened
