"""What threads may add to."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

import numpy as np

from forwardpass.wire import Array

# The most numbers, or runs with the numbers of each of their requests, that are recorded before
# they are added up: many together cost less each, but must not hold up the calls that wait.
MAX_RECORDED = 256
T = TypeVar("T")


def take(recorded: deque[T]) -> list[T]:
    """Takes what is there now; threads may go on putting down."""
    return [recorded.popleft() for _ in range(len(recorded))]


class Count:
    """How often something happened.

    Attributes:
        add: Counts one time more. The next of `itertools.count` takes neither a lock nor a Python
            function.
    """

    __slots__ = ("_lock", "_reads", "add")

    def __init__(self) -> None:
        self.add: Callable[[], int] = count().__next__
        self._lock = threading.Lock()
        self._reads = 0

    @property
    def value(self) -> int:
        """How often."""
        with self._lock:
            # Reading consumes one value, so it is subtracted again.
            value = self.add() - self._reads
            self._reads += 1
        return value


class Total:
    """How often something happened, and how long it took altogether."""

    __slots__ = ("_count", "_lock", "_seconds")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._seconds = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Counts one time, or several that took so long together."""
        with self._lock:
            self._count += times
            self._seconds += seconds

    def read(self) -> tuple[int, float]:
        """Returns the count and the seconds."""
        with self._lock:
            return self._count, self._seconds


class Histogram:
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds, np.float64)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: Array) -> None:
        """Counts observations: an array of one axis."""
        buckets = np.searchsorted(self._bounds, values)
        counts = np.bincount(buckets, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(values.sum())

    def totals(self) -> tuple[int, float]:
        """Returns the number of observations and their sum."""
        with self._lock:
            return int(self._counts.sum()), self._sum

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Returns Prometheus's (upper bound, count up to it) pairs, and the sum."""
        with self._lock:
            counts, total = self._counts.cumsum().tolist(), self._sum
        bounds = (*map(repr, self._bounds.tolist()), "+Inf")
        return list(zip(bounds, counts, strict=True)), total
