"""Counters on the hot path, Prometheus series at scrape.

A call puts numbers down, or adds to plain ones under a short lock; nothing of prometheus_client
runs until somebody scrapes. Labels come from the loaded models and the served methods only, never
from a caller.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from forwardpass.server.transport.call import Kind
from forwardpass.wire import Array

# Seconds: a single-row MLP computes in 20 microseconds, a large network in seconds.
SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# So many sizes of a run are told apart for each version: callers choose them.
BATCH_SIZES = 256
# So many numbers, or runs with the numbers of each of their requests, are put down before they are
# added up: together that costs less, but it must not hold up the calls that wait meanwhile.
_PUT_DOWN = 256
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)


T = TypeVar("T")


class Number:
    """A number that threads may add to: amounts are put down first, which takes no lock."""

    __slots__ = ("_lock", "_put_down", "_sum")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put_down: deque[int] = deque()
        self._sum = 0

    def add(self, amount: int) -> None:
        """Adds, which may be negative."""
        self._put_down.append(amount)
        if len(self._put_down) >= _PUT_DOWN:
            self._add_up()

    @property
    def value(self) -> int:
        """What all amounts come to."""
        self._add_up()
        return self._sum

    def _add_up(self) -> None:
        with self._lock:
            self._sum += sum(_take(self._put_down))


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


class ModelCounters:
    """What is counted for one version of a model.

    What requests add is put down first, which takes no lock, and added up later: when there is
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
        self.dropped = {"cancelled": Number(), "expired": Number()}
        self.last_run = 0.0
        self._succeeded = Total()
        self._phases = {
            phase: Histogram(SECONDS) for phase in ("decode", "queue", "compute", "encode")
        }
        self._batch_rows = Histogram(ROWS)
        self._batches: dict[int, Total] = {}
        self._rows = 0
        # Put down, and not added up yet.
        self._answers: deque[tuple[Sequence[float], float, float]] = deque()
        self._successes: deque[float] = deque()
        self._runs: deque[tuple[int, Sequence[float], float]] = deque()
        self._adding = threading.Lock()

    def ran(self, rows: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        """Counts one run of the model, and how long each of its jobs had waited."""
        self.last_run = time.time()
        self._runs.append((rows, queue_seconds, compute_seconds))
        if len(self._runs) >= _PUT_DOWN:
            self._add_up()

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
        if len(self._answers) >= _PUT_DOWN:
            self._add_up()

    def ended(self, seconds: float, *, failed: bool) -> None:
        """Counts one request, and how long it took from its arrival."""
        if failed:
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
        """Adds up what has been put down."""
        with self._adding:
            if answers := _take(self._answers):
                decode, compute, encode = zip(*answers, strict=True)
                times = [len(spent) for spent in decode]
                self._phases["decode"].observe(_joined(decode, sum(times)))
                self._phases["compute"].observe(np.repeat(compute, times))
                self._phases["encode"].observe(np.repeat(encode, times))
            if successes := _take(self._successes):
                self._succeeded.add(math.fsum(successes), len(successes))
            if runs := _take(self._runs):
                rows, waits, _ = zip(*runs, strict=True)
                self._batch_rows.observe(np.array(rows))
                self._phases["queue"].observe(_joined(waits, sum(map(len, waits))))
                self._add_up_batches(runs)

    def _add_up_batches(self, runs: Sequence[tuple[int, Sequence[float], float]]) -> None:
        for rows, _, seconds in runs:
            self._rows += rows
            if rows in self._batches or len(self._batches) < BATCH_SIZES:
                self._batches.setdefault(rows, Total()).add(seconds)


def _joined(parts: Iterable[Sequence[float]], count: int) -> Array:
    return np.fromiter(chain.from_iterable(parts), np.float64, count)


def _take(put_down: deque[T]) -> list[T]:
    """Takes what is there now; threads may go on putting down."""
    return [put_down.popleft() for _ in range(len(put_down))]


class MethodCounters:
    """What is counted for one method.

    Attributes:
        kind: How many messages go each way.
        started: Calls begun.
        handled: Calls ended, by status.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.started = Number()
        self.handled = [Number() for _ in _CODES]


class ServerCollector(Collector):
    """Renders every counter of the server.

    Args:
        methods: Counters by path, such as "/forwardpass.v1.InferenceService/Predict".
        models: Gives (name, version, digest, whether it has come to fail, counters) of every loaded
            version.
        in_flight: Gives the calls and the bytes that are in flight.
    """

    def __init__(
        self,
        methods: dict[str, MethodCounters],
        models: Callable[[], Iterable[tuple[str, str, str, bool, ModelCounters]]],
        in_flight: Callable[[], tuple[int, int]],
    ) -> None:
        self._methods = methods
        self._models = models
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        yield from self._collect_methods()
        yield from self._collect_models()
        calls, size = self._in_flight()
        yield GaugeMetricFamily("forwardpass_calls_in_flight", "Calls under way.", value=calls)
        yield GaugeMetricFamily(
            "forwardpass_request_bytes_in_flight", "Bytes of the requests under way.", value=size
        )

    def _collect_methods(self) -> Iterator[Metric]:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily("grpc_server_started", "Calls begun.", labels=labels)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls ended, by status.", labels=[*labels, "grpc_code"]
        )
        for path, counters in self._methods.items():
            _, service, method = path.split("/")
            values = [counters.kind.value, service, method]
            started.add_metric(values, counters.started.value)
            for code, number in zip(_CODES, counters.handled, strict=True):
                if number.value:
                    handled.add_metric([*values, code], number.value)
        yield started
        yield handled

    def _collect_models(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        info = GaugeMetricFamily(
            "forwardpass_model_info", "1 for each loaded version.", labels=[*labels, "digest"]
        )
        failing = GaugeMetricFamily(
            "forwardpass_model_failing", "1 while its runs fail, else 0.", labels=labels
        )
        phases = HistogramMetricFamily(
            "forwardpass_phase_seconds", "Time by phase of a request.", labels=[*labels, "phase"]
        )
        batches = HistogramMetricFamily(
            "forwardpass_batch_rows", "Rows in a run of the model.", labels=labels
        )
        pending = GaugeMetricFamily("forwardpass_queue_jobs", "Jobs that wait.", labels=labels)
        dropped = CounterMetricFamily(
            "forwardpass_jobs_dropped", "Jobs not run, by why.", labels=[*labels, "reason"]
        )
        triton = {name: UnknownMetricFamily(name, text, labels=labels) for name, text in _TRITON}
        for name, version, digest, fails, counters in self._models():
            values = [name, version]
            info.add_metric([*values, digest], 1)
            failing.add_metric(values, fails)
            for phase, histogram in counters.phases.items():
                buckets, total = histogram.cumulative()
                phases.add_metric([*values, phase], buckets, total)
            buckets, total = counters.batch_rows.cumulative()
            batches.add_metric(values, buckets, total)
            pending.add_metric(values, counters.pending())
            for reason, number in counters.dropped.items():
                dropped.add_metric([*values, reason], number.value)
            for metric, value in _triton_values(counters).items():
                triton[metric].add_metric(values, value)
        yield from (info, failing, phases, batches, pending, dropped, *triton.values())


# Triton's names and units, so that its dashboards and autoscaling rules work unchanged. They are
# sent untyped: prometheus_client would end a counter's name in _total, which Triton does not.
_TRITON = (
    ("nv_inference_request_success", "Requests answered."),
    ("nv_inference_request_failure", "Requests failed."),
    ("nv_inference_count", "Rows answered."),
    ("nv_inference_exec_count", "Runs of the model."),
    ("nv_inference_request_duration_us", "Microseconds in requests."),
    ("nv_inference_queue_duration_us", "Microseconds waiting."),
    ("nv_inference_compute_input_duration_us", "Microseconds making inputs."),
    ("nv_inference_compute_infer_duration_us", "Microseconds in the model."),
    ("nv_inference_compute_output_duration_us", "Microseconds making outputs."),
    ("nv_inference_pending_request_count", "Requests that wait."),
)


def _triton_values(counters: ModelCounters) -> dict[str, float]:
    spent = {phase: seconds * 1e6 for phase, (_, seconds) in counters.phase_totals().items()}
    succeeded, seconds = counters.succeeded
    return {
        "nv_inference_request_success": succeeded,
        "nv_inference_request_failure": counters.failed.read()[0],
        "nv_inference_count": counters.rows,
        "nv_inference_exec_count": counters.runs,
        "nv_inference_request_duration_us": seconds * 1e6,
        "nv_inference_queue_duration_us": spent["queue"],
        "nv_inference_compute_input_duration_us": spent["decode"],
        "nv_inference_compute_infer_duration_us": spent["compute"],
        "nv_inference_compute_output_duration_us": spent["encode"],
        "nv_inference_pending_request_count": counters.pending(),
    }
