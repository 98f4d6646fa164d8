"""What is counted, for each version of a model and for each method."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np

from forwardpass.server.metrics.numbers import MAX_RECORDED, Count, Histogram, Total, take
from forwardpass.server.transport.route import CallType
from forwardpass.wire import Array

# Seconds: a single-row MLP computes in 20 microseconds, a large network in seconds.
SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# The most sizes of a run that are counted apart for each version: callers choose them.
BATCH_SIZES = 256
CODE_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)


class ModelCounters:
    """What is counted for one version of a model.

    What requests add is recorded first, which takes no lock, and added up later: when there is
    much of it, or when somebody reads.

    Attributes:
        failed: Requests that were not answered, from their arrival to their end.
        pending: Tells how many jobs wait.
        dropped: Jobs not run, by why.
        last_run: When a run last ended, in seconds since 1970; 0 before the first.
    """

    def __init__(self) -> None:
        self.failed = Total()
        self.pending: Callable[[], int] = int
        self.dropped = {"cancelled": Count(), "expired": Count()}
        self.last_run = 0.0
        self._succeeded = Total()
        self._phases = {
            phase: Histogram(SECONDS) for phase in ("decode", "queue", "compute", "encode")
        }
        self._batch_rows = Histogram(ROWS)
        self._batches: dict[int, Total] = {}
        self._rows = 0
        # Seconds that runs took which gave an answer, and those that did not; when those under way
        # began; and what was last told of all of these.
        self._run_seconds = 0.0
        self._failed_runs = Total()
        self._under_way: list[float] = []
        self._busy_told = 0.0
        # Seconds that jobs waited which had an answer, and those that had none.
        self._unanswered = Total()
        # Recorded, and not added up yet.
        self._answers: deque[tuple[Sequence[float], float, float]] = deque()
        self._successes: deque[float] = deque()
        self._runs: deque[tuple[int, Sequence[float], float]] = deque()
        self._adding = threading.Lock()

    def begin_run(self) -> float:
        """Counts a run from now on; returns when that was, by `time.perf_counter`."""
        started = time.perf_counter()
        self._under_way.append(started)
        return started

    def ran(
        self, started: float, rows: int, queue_seconds: Sequence[float], compute_seconds: float
    ) -> None:
        """Counts one run of the model, and how long each of its jobs had waited.

        Args:
            started: What `begin_run` returned.
            rows: How many rows it had.
            queue_seconds: Those of each job.
            compute_seconds: Those of the run.
        """
        # Before it is recorded: whoever reads in between must not count it twice.
        self._under_way.remove(started)
        self.last_run = time.time()
        self._runs.append((rows, queue_seconds, compute_seconds))
        if len(self._runs) >= MAX_RECORDED:
            self._add_up()

    def run_failed(self, started: float, queue_seconds: Iterable[float]) -> None:
        """Counts one run that gave no answer.

        Args:
            started: What `begin_run` returned.
            queue_seconds: Those of each job that is not run again.
        """
        self._under_way.remove(started)
        self._failed_runs.add(time.perf_counter() - started)
        for seconds in queue_seconds:
            self._unanswered.add(seconds)

    def left_queue(self, seconds: float) -> None:
        """Counts one job that is not run, and how long it had waited."""
        self._unanswered.add(seconds)

    def answered(
        self, decode_seconds: Sequence[float], compute_seconds: float, encode_seconds: float
    ) -> None:
        """Counts where the time of answers went: all of it at once, or the counts differ.

        Args:
            decode_seconds: Those of each.
            compute_seconds: The run's that they come from.
            encode_seconds: Those of each, where several are encoded together on average.
        """
        self._answers.append((decode_seconds, compute_seconds, encode_seconds))
        if len(self._answers) >= MAX_RECORDED:
            self._add_up()

    def ended(self, seconds: float, code: int) -> None:
        """Counts one request, how long it took from its arrival, and the status it came to."""
        if code:
            self.failed.add(seconds)
        else:
            self._successes.append(seconds)

    @property
    def succeeded(self) -> tuple[int, float]:
        """How many requests were answered, and their seconds from their arrival to their end."""
        self._add_up()
        return self._succeeded.read()

    @property
    def phases(self) -> Mapping[str, Histogram]:
        """Where the time of requests went.

        The queue counts once a job's run is over, the others once its answer is made: a run's time
        counts for every request that it answers. The counts of these others are the same.
        """
        self._add_up()
        return self._phases

    @property
    def batch_rows(self) -> Histogram:
        """Rows by run."""
        self._add_up()
        return self._batch_rows

    @property
    def rows(self) -> int:
        """Rows that the model ran on."""
        self._add_up()
        return self._rows

    @property
    def runs(self) -> int:
        """Runs of the model."""
        return self.batch_rows.totals()[0]

    @property
    def busy_seconds(self) -> float:
        """Seconds of runs: those that failed or were stopped count, and those under way so far.

        It never falls.
        """
        self._add_up()
        with self._adding:
            now = time.perf_counter()
            under_way = sum(now - started for started in tuple(self._under_way))
            _, failed = self._failed_runs.read()
            # A run that has just ended may be in none of these.
            self._busy_told = max(self._busy_told, self._run_seconds + failed + under_way)
            return self._busy_told

    @property
    def queue_seconds(self) -> float:
        """Seconds that jobs waited which wait no more, whatever became of them."""
        _, unanswered = self._unanswered.read()
        _, answered = self.phases["queue"].totals()
        return answered + unanswered

    def phase_totals(self) -> dict[str, tuple[int, float]]:
        """Returns counts and seconds by phase."""
        self._add_up()
        with self._adding:
            return {phase: histogram.totals() for phase, histogram in self._phases.items()}

    def batches(self) -> list[tuple[int, int, float]]:
        """Returns (rows, runs, seconds of the model) for the first `BATCH_SIZES` sizes of a run."""
        self._add_up()
        with self._adding:
            return sorted((rows, *total.read()) for rows, total in self._batches.items())

    def _add_up(self) -> None:
        """Adds up what has been recorded."""
        with self._adding:
            if answers := take(self._answers):
                decode, compute, encode = zip(*answers, strict=True)
                times = [len(spent) for spent in decode]
                self._phases["decode"].observe(_joined(decode, sum(times)))
                self._phases["compute"].observe(np.repeat(compute, times))
                self._phases["encode"].observe(np.repeat(encode, times))
            if successes := take(self._successes):
                self._succeeded.add(math.fsum(successes), len(successes))
            if runs := take(self._runs):
                rows, waits, _ = zip(*runs, strict=True)
                self._batch_rows.observe(np.array(rows))
                self._phases["queue"].observe(_joined(waits, sum(map(len, waits))))
                self._add_up_batches(runs)

    def _add_up_batches(self, runs: Sequence[tuple[int, Sequence[float], float]]) -> None:
        for rows, _, seconds in runs:
            self._rows += rows
            self._run_seconds += seconds
            if rows in self._batches or len(self._batches) < BATCH_SIZES:
                self._batches.setdefault(rows, Total()).add(seconds)


class MethodCounters:
    """What is counted for one method; the seconds are recorded first, as `ModelCounters` does.

    Attributes:
        kind: How many messages go each way.
        started: Calls begun.
        handled: Calls ended, by status.
    """

    def __init__(self, kind: CallType) -> None:
        self.kind = kind
        self.started = Count()
        self.handled = [Count() for _ in CODE_NAMES]
        self._seconds = Histogram(SECONDS)
        self._recorded: deque[float] = deque()
        self._adding = threading.Lock()

    def ended(self, seconds: float, code: int) -> None:
        """Counts one call, how long it took from its arrival, and the status it came to."""
        self.handled[code].add()
        self._recorded.append(seconds)
        if len(self._recorded) >= MAX_RECORDED:
            self._add_up()

    @property
    def seconds(self) -> Histogram:
        """How long calls took, from their arrival to their end."""
        self._add_up()
        return self._seconds

    def _add_up(self) -> None:
        with self._adding:
            if recorded := take(self._recorded):
                self._seconds.observe(np.array(recorded))


def _joined(parts: Iterable[Sequence[float]], count: int) -> Array:
    return np.fromiter(chain.from_iterable(parts), np.float64, count)
