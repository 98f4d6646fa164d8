"""A bound on the memory of what several threads decode at one time."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ByteBudget:
    """Lets threads use memory, in the order in which they come where it would be too much at once.

    Args:
        size: Bytes. Who wants more waits to be the only one.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def use(self, size: int) -> Iterator[None]:
        """Waits until so many bytes are free, and gives them back at the end."""
        with self._changed:
            turn = object()
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size))
                self._used += size
            finally:
                self._waiting.remove(turn)
                # The next may fit beside it.
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._size
