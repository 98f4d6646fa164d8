"""How many tracebacks the log has a second."""

import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any

# A fault that every call meets is understood from a few; rendering one takes longer than a call.
_MOST = 10
_LEFT_OUT = f"left out: {_MOST} others came within a second"


class TracebackLimit:
    """A structlog processor that leaves out tracebacks where many come within a second.

    Args:
        now: The time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # When the last ones were let through. Threads that meet here may let one more through.
        self._times: deque[float] = deque(maxlen=_MOST)

    def __call__(
        self, _: object, __: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Returns the line, which says so where its traceback is left out."""
        if line.get("exc_info") is None or self._admits():
            return line
        del line["exc_info"]
        line["traceback"] = _LEFT_OUT
        return line

    def _admits(self) -> bool:
        now = self._now()
        if len(self._times) == _MOST and now - self._times[0] < 1:
            return False
        self._times.append(now)
        return True
