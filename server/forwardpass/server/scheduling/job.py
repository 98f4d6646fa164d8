"""One piece of work for a model: its arrays, its clock, its deadline and where the answer goes."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forwardpass.wire import Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What running a job gave.

    Attributes:
        outputs: Arrays by output name: this job's own rows.
        queue_seconds: How long it waited for its turn.
        compute_seconds: How long ONNX Runtime took for the run.
        batch_rows: Rows of the run, its own and others'.
    """

    outputs: Mapping[str, Array]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


class Stop:
    """Tells a run of the model to stop, once everybody who waits for it has gone."""

    def __init__(self, waiting: int) -> None:
        self._lock = threading.Lock()
        self._waiting = waiting
        self._stop: Callable[[], None] | None = None

    def begin(self, stop: Callable[[], None]) -> None:
        """Says how the run is stopped; at once if nobody waits any more."""
        with self._lock:
            self._stop = stop
            alone = self._waiting == 0
        if alone:
            stop()

    def leave(self) -> None:
        """Says that one of those who wait has gone."""
        with self._lock:
            self._waiting -= 1
            stop = self._stop if self._waiting == 0 else None
        if stop is not None:
            stop()


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work. There is no table of jobs: whoever holds one can answer it.

    Attributes:
        inputs: Arrays by input name, as `Signature.check` passed them.
        rows: How many rows they have.
        outputs: The names of the outputs wanted.
        deadline: When the caller stops waiting, by `time.monotonic`; None for never.
        answered: Takes the answer; called from the worker's thread, so it must only hand on.
        failed: Takes what went wrong instead; as `answered`.
        priority: Jobs of a lower number go first; 0 is the first.
        alone: Whether it must not share a run with others.
        submitted: When it was handed to the worker, by `time.perf_counter`.
    """

    inputs: Mapping[str, Array]
    rows: int
    outputs: tuple[str, ...]
    deadline: float | None
    answered: Callable[[Answer], None]
    failed: Callable[[Exception], None]
    priority: int = 0
    alone: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gone: bool = False
    _stop: Stop | None = None

    @property
    def gone(self) -> bool:
        """Whether the caller has gone, so that the job need not run."""
        return self._gone

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def abandon(self) -> None:
        """Says that the caller has gone: the job need not run, or go on running."""
        with self._lock:
            self._gone = True
            stop = self._stop
        if stop is not None:
            stop.leave()

    def join(self, stop: Stop) -> None:
        """Says which run the job is part of."""
        with self._lock:
            self._stop = stop
            gone = self._gone
        if gone:
            stop.leave()

    def may_share(self, other: "Job") -> bool:
        """Whether one run can answer both: same outputs, same inputs but for their rows."""
        return (
            not self.alone
            and not other.alone
            and self.outputs == other.outputs
            and all(
                array.shape[1:] == other.inputs[name].shape[1:]
                for name, array in self.inputs.items()
            )
        )
