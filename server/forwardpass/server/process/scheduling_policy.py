"""Whether a thread of the server that wakes up interrupts the one that runs."""

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

_THREADS = Path("/proc/self/task")


class SchedulingPolicy:
    """Chooses the kernel's scheduling policy for the process's threads by the models it has.

    By default (SCHED_OTHER) a thread that wakes up interrupts another, so on a core that is busy
    each message that arrives has one of gRPC core's threads interrupt the transport in the midst of
    its work. With SCHED_BATCH (sched(7)) it waits until the other one does, or until its slice of
    some milliseconds is over. Where no model computes for as long as that, only the interruptions
    go; where one does, calls of others would wait for it. No privilege is needed.

    What the operator has chosen (chrt(1)) stays, and so do systems other than Linux.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chosen = 0
        self._may_choose = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER

    def adapt(self, runs_inline: Iterable[bool]) -> None:
        """Chooses for the versions that are loaded now; threads that begin later follow suit.

        Args:
            runs_inline: Of each version, whether the transport's own thread runs it.
        """
        if not self._may_choose:
            return
        # Whoever comes last has looked last: models are loaded side by side.
        with self._lock:
            brief = list(runs_inline)
            policy = os.SCHED_BATCH if brief and all(brief) else os.SCHED_OTHER
            if policy == self._chosen:
                return
            self._chosen = policy
            try:
                # From the first again after each, as it may have begun others meanwhile.
                while any(_give(int(thread.name), policy) for thread in _THREADS.iterdir()):
                    pass
            except OSError:
                # A sandbox may forbid it, and calls are answered all the same.
                self._may_choose = False


def _give(thread: int, policy: int) -> bool:
    """Gives a thread the policy; False where it has it, or has ended."""
    try:
        if os.sched_getscheduler(thread) == policy:
            return False
        os.sched_setscheduler(thread, policy, os.sched_param(0))
    except ProcessLookupError:
        return False
    return True
