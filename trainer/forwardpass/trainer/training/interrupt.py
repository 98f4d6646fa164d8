"""Ctrl-C that is not lost.

Python drops an exception that is raised while a finaliser or a callback of C runs, and
KeyboardInterrupt like any other: training would go on. So it is remembered, and raised again at the
next step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A process has one handler of a signal.
_asked = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Remembers a Ctrl-C within; to be entered by the main thread."""

    def ask(*_: object) -> None:
        _asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _asked.clear()


def check() -> None:
    """Raises the KeyboardInterrupt that is remembered, if any."""
    if _asked.is_set():
        raise KeyboardInterrupt
