"""Files that an operator names, and that are read again when one of them changes."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from forwardpass.server.process.plain_file import Stamp, UnusableFileError, stamp_of

# How long may hold what is no longer in the files, in seconds.
_LOOK_SECONDS = 1.0
_log = structlog.get_logger()
T = TypeVar("T")


class WatchedFiles(ABC, Generic[T]):
    """What some files hold.

    The files are looked at when somebody asks for it, at most once a second, and read where one has
    changed. The paths are followed anew each time, as Kubernetes changes a mounted Secret by a link
    on the way to it. Files that cannot be used leave what they held before.

    Args:
        paths: The files.
        event: How the log calls what they hold.

    Raises:
        UnusableFileError: The files cannot be used.
    """

    def __init__(self, paths: Sequence[Path], event: str) -> None:
        self._paths = paths
        self._event = event
        self._looking = threading.Lock()
        self._looked_at = time.monotonic()
        self._stamps, self._current = self._read()
        # Why the files cannot be used now; None where they can.
        self._fault: str | None = None

    def current(self) -> T:
        """Returns what holds now; where it is the same, the same object.

        While a thread looks at the files, which may lie far away, others do not wait for it.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._looked_at = now
                self._look()
            finally:
                self._looking.release()
        return self._current

    @property
    def failing(self) -> bool:
        """Whether the files could not be used when they were last looked at."""
        return self._fault is not None

    @abstractmethod
    def _read(self) -> tuple[Sequence[Stamp | None], T]:
        """Returns the stamps of the files, in the order of their paths, and what they hold.

        Raises:
            UnusableFileError: The files cannot be used.
        """

    @abstractmethod
    def _about(self, current: T) -> Mapping[str, object]:
        """Returns what the log tells of what they hold."""

    def _look(self) -> None:
        stamps = self._stamp()
        if self._fault is None and stamps == self._stamps:
            return
        try:
            self._stamps, found = self._read()
        except UnusableFileError as error:
            # Files that change just now may be half of the old ones and half of the new.
            if self._stamp() == stamps:
                self._complain(str(error))
            return
        if found != self._current:
            self._current = found
        elif self._fault is None:
            return
        self._fault = None
        _log.info(self._event, **self._about(self._current))

    def _stamp(self) -> Sequence[Stamp | None]:
        return [stamp_of(path) for path in self._paths]

    def _complain(self, fault: str) -> None:
        """Says once why the files cannot be used."""
        if fault != self._fault:
            self._fault = fault
            _log.warning(f"{self._event}_kept", reason=fault, **self._about(self._current))
