"""What all workers have counted together, those that have ended included."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

# A family of metrics as it travels: name, documentation, type, and the name, labels and value of
# each of its samples.
Family: TypeAlias = tuple[str, str, str, Sequence[tuple[str, Mapping[str, str], float]]]
# A sample's name and labels.
_Key = tuple[str, tuple[tuple[str, str], ...]]
_Values = dict[str, dict[_Key, float]]

# 1 or 0: what is so in one worker is so for the server.
_FLAGS = {
    "forwardpass_certificate_failing",
    "forwardpass_model_failing",
    "forwardpass_model_info",
    "forwardpass_tokens_failing",
}
# Likewise, but what is so in every worker is so for the server.
_COMMON_FLAGS = {"forwardpass_model_ready"}
# Of which the least counts: times, and the memory that all workers share.
_LEAST = {
    "forwardpass_certificate_expires_seconds",
    "forwardpass_memory_available_bytes",
    "forwardpass_memory_limit_bytes",
    "process_start_time_seconds",
}
# A gauge, though untyped like all of Triton's.
_UNTYPED_GAUGES = {"nv_inference_pending_request_count"}


def read(registry: CollectorRegistry) -> list[Family]:
    """Returns every family that is counted in this process."""
    return [
        (
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class Aggregate(Collector):
    """Adds up what workers have counted.

    Of counters and histograms it adds what they have grown by since the worker last told, so they
    never fall: neither when a worker ends nor when one releases a model that others still have.
    Gauges are of the workers that live.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._about: dict[str, tuple[str, str]] = {}
        self._sums: _Values = {}
        self._last: dict[int, _Values] = {}

    def take(self, worker: int, families: Iterable[Family]) -> None:
        """Takes what a worker has counted since its start."""
        values: _Values = {}
        with self._lock:
            last = self._last.get(worker, {})
            for name, documentation, kind, samples in families:
                self._about[name] = documentation, kind
                values[name] = {
                    (sample, tuple(labels.items())): value for sample, labels, value in samples
                }
                if not self._is_gauge(name):
                    before = last.get(name, {})
                    sums = self._sums.setdefault(name, {})
                    for key, value in values[name].items():
                        sums[key] = sums.get(key, 0) + _growth(before.get(key, 0), value)
            self._last[worker] = values

    def ended(self, worker: int) -> None:
        """Takes it that a worker has ended: what it had counted stays, what it held does not."""
        with self._lock:
            self._last.pop(worker, None)

    def prune(self) -> None:
        """Lets go of versions of models that no worker has told of: none has them loaded."""
        with self._lock:
            loaded = {
                version
                for values in self._last.values()
                for samples in values.values()
                for key in samples
                if (version := _version(key)) is not None
            }
            for name, sums in self._sums.items():
                self._sums[name] = {
                    key: value
                    for key, value in sums.items()
                    if (version := _version(key)) is None or version in loaded
                }

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        with self._lock:
            metrics = [self._metric(name, *about) for name, about in self._about.items()]
        yield from metrics

    def _metric(self, name: str, documentation: str, kind: str) -> Metric:
        metric = Metric(name, documentation, kind)
        values = self._held(name) if self._is_gauge(name) else self._sums[name]
        for (sample, labels), value in values.items():
            metric.add_sample(sample, dict(labels), value)
        return metric

    def _is_gauge(self, name: str) -> bool:
        return self._about[name][1] == "gauge" or name in _UNTYPED_GAUGES

    def _held(self, name: str) -> dict[_Key, float]:
        together: Any = max if name in _FLAGS else min if name in _COMMON_FLAGS | _LEAST else sum
        parts: dict[_Key, list[float]] = {}
        for values in self._last.values():
            for key, value in values.get(name, {}).items():
                parts.setdefault(key, []).append(value)
        return {key: together(part) for key, part in parts.items()}


def _growth(before: float, now: float) -> float:
    """Returns what a counter has grown by; one that has fallen began again at 0."""
    return now - before if now >= before else now


def _version(key: _Key) -> tuple[str, str] | None:
    labels = dict(key[1])
    return (labels["model"], labels["version"]) if "version" in labels else None
