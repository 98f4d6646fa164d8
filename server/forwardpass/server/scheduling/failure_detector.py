"""Runs that fail, and whether the caller's values or the model are at fault."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

# Seconds between two trials of a model.
PAUSE = 1.0


class FailureDetector:
    """Judges a model by an input of ours that it has been seen to answer.

    A caller can make a run fail with values that ONNX Runtime does not recognise as the caller's to
    blame. So a run that fails only raises the question; the answer is whether the model still
    computes its known-good input. An unhealthy model is tried again until it does.

    Attributes:
        failing: Whether the model is unhealthy.

    Args:
        probe: Runs the model on its known-good input; raises where that fails. None where there is
            no such input: then the model is never judged.
        judged: Called after each change of `failing`.
    """

    def __init__(self, probe: Callable[[], object] | None, judged: Callable[[], None]) -> None:
        self.failing = False
        self._probe = probe
        self._judged = judged
        self._trying = threading.Lock()
        self._tried_at = -PAUSE
        self._watched = False
        self._closed = threading.Event()

    def failed(self) -> bool:
        """Says that a run has failed while somebody waited for it.

        The model is tried on this thread, at most once a second.

        Returns:
            Whether the model is at fault, and not the values of the run.
        """
        # Who comes while another tries takes the verdict as it is.
        if self._probe is not None and self._trying.acquire(blocking=False):
            try:
                if time.monotonic() - self._tried_at >= PAUSE and not self._watched:
                    self._try()
                    if self.failing:
                        self._start_watch()
            finally:
                self._trying.release()
        return self.failing

    def close(self) -> None:
        """Judges no more."""
        self._closed.set()

    def _start_watch(self) -> None:
        watch = threading.Thread(target=self._watch, name="failure_detector", daemon=True)
        # Where no thread can be had, the next run that fails tries the model again.
        with suppress(RuntimeError):
            watch.start()
            self._watched = True

    def _watch(self) -> None:
        """Tries an unhealthy model until it answers."""
        while not self._closed.wait(PAUSE):
            with self._trying:
                self._try()
                if not self.failing:
                    self._watched = False
                    return

    def _try(self) -> None:
        assert self._probe is not None
        try:
            self._probe()
        except Exception:  # noqa: BLE001  # the runs that failed alike have been logged
            failing = True
        else:
            failing = False
        self._tried_at = time.monotonic()
        if failing != self.failing and not self._closed.is_set():
            self.failing = failing
            self._judged()
