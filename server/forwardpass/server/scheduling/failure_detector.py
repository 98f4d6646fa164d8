"""Runs that fail one after the other, and whether the callers or the model are at fault."""

import threading
from collections.abc import Callable

# How many runs in a row must fail before the model itself is tried.
IN_A_ROW = 5
# Seconds until a model that fails is tried again; a call that it answers is told at once.
PAUSE = 10.0


class FailureDetector:
    """Judges a model by its runs.

    Callers can make a run fail with values that ONNX Runtime does not recognise as theirs to blame.
    So failures in a row only raise the question; the answer is whether the model still computes an
    input that it is known to take.

    Args:
        probe: Runs the model on that input; raises where it fails.
        judged: Called after each change of `failing`.
    """

    def __init__(self, probe: Callable[[], object], judged: Callable[[], None]) -> None:
        self.failing = False
        self._probe = probe
        self._judged = judged
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._watching = False
        self._over = threading.Event()
        self._closed = False

    def succeeded(self) -> None:
        """Says that a run has answered."""
        if self._in_a_row:
            with self._lock:
                self._in_a_row = 0
                self._over.set()

    def failed(self) -> None:
        """Says that a run has failed, and that nobody wanted it to or is known to be the cause."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row < IN_A_ROW or self._watching:
                return
            self._watching = True
            self._over.clear()
        try:
            threading.Thread(target=self._watch, name="failure_detector", daemon=True).start()
        except RuntimeError:
            # There may be no more threads: the next failure tries again.
            self._watching = False

    def close(self) -> None:
        """Judges no more."""
        self._closed = True
        self._over.set()

    def _watch(self) -> None:
        """Tries the model until it answers, the probe or a call."""
        while not self._works():
            self._judge(failing=True)
            if self._over.wait(PAUSE):
                break
        with self._lock:
            self._in_a_row = 0
            self._watching = False
        self._judge(failing=False)

    def _works(self) -> bool:
        try:
            self._probe()
        except Exception:  # noqa: BLE001  # the calls that failed alike have been logged
            return False
        return True

    def _judge(self, *, failing: bool) -> None:
        if failing != self.failing and not self._closed:
            self.failing = failing
            self._judged()
