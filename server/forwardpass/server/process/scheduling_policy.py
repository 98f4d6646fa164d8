"""Whether a thread of the server that wakes up interrupts the one that runs."""

import os
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

_THREADS = Path("/proc/self/task")
# How many events the transport takes each time it sleeps: with more than the first it is saturated,
# with fewer than the second it no longer is. That is looked at every so many events, and so many
# looks in a row have to find the same.
_SATURATED, _AT_EASE, _EVENTS, _LOOKS = 16, 8, 64, 4
Name = Literal["auto", "batch", "other"]


class SchedulingPolicy:
    """Chooses the kernel's scheduling policy for the process's threads.

    By default (SCHED_OTHER) a thread that wakes up interrupts another, so on a core that is busy
    each message that arrives has one of gRPC core's threads interrupt the transport in the midst of
    its work. With SCHED_BATCH (sched(7)) it waits until the other one does, or until its slice of
    some milliseconds is over. That suits a transport that is saturated, and models none of which
    computes for as long as a slice. A transport that sleeps between calls would wait at each of
    them for whatever else the core does. No privilege is needed.

    What the operator has chosen (chrt(1)) stays, and so do systems other than Linux.

    Args:
        name: "batch" or "other", whatever happens; "auto" to choose by what happens.
    """

    def __init__(self, name: Name) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._given: int | None = None
        self._may_choose = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
        self._runs_inline: Callable[[], Iterable[bool]] = tuple
        self._is_saturated = False
        # Since the last look, and how often the transport's thread had slept by then.
        self._events = 0
        self._sleeps = 0
        # How many looks in a row have found the transport as it was not before.
        self._looks = 0

    def follow(self, runs_inline: Callable[[], Iterable[bool]]) -> None:
        """Has it follow what is loaded.

        Args:
            runs_inline: Tells of each version whether the transport's own thread runs it.
        """
        self._runs_inline = runs_inline
        self.adapt()

    def look(self, events: int) -> None:
        """Looks now and then whether the transport is saturated; on its own thread.

        Args:
            events: How many more it has taken.
        """
        self._events += events
        if self._events < _EVENTS:
            return
        events, self._events = self._events, 0
        if self._name != "auto" or not self._may_choose:
            return
        sleeps = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        slept, self._sleeps = sleeps - self._sleeps, sleeps
        differs = events < slept * _AT_EASE if self._is_saturated else events > slept * _SATURATED
        self._looks = self._looks + 1 if differs else 0
        if self._looks == _LOOKS:
            self._looks = 0
            self._is_saturated = not self._is_saturated
            self.adapt()

    def adapt(self) -> None:
        """Chooses for what is loaded and under way now; threads that begin later follow suit."""
        if not self._may_choose:
            return
        # Whoever comes last has looked last: models are loaded side by side.
        with self._lock:
            policy = os.SCHED_BATCH if self._wants_batch() else os.SCHED_OTHER
            if policy == self._given:
                return
            self._given = policy
            try:
                # From the first again after each, as it may have begun others meanwhile.
                while any(_give(int(thread.name), policy) for thread in _THREADS.iterdir()):
                    pass
            except OSError:
                # A sandbox may forbid it, and calls are answered all the same.
                self._may_choose = False

    def _wants_batch(self) -> bool:
        if self._name != "auto":
            return self._name == "batch"
        brief = list(self._runs_inline()) if self._is_saturated else []
        return bool(brief) and all(brief)


def _give(thread: int, policy: int) -> bool:
    """Gives a thread the policy; False where it has it, or has ended."""
    try:
        if os.sched_getscheduler(thread) == policy:
            return False
        os.sched_setscheduler(thread, policy, os.sched_param(0))
    except ProcessLookupError:
        return False
    return True
