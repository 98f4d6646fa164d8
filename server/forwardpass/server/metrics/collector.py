"""Prometheus series of what has been counted."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from forwardpass.server.metrics.counters import CODE_NAMES, MethodCounters, ModelCounters
from forwardpass.server.process import log
from forwardpass.server.process.memory import memory
from forwardpass.server.transport.certificate_files import CertificateFiles


@dataclass(frozen=True, slots=True)
class InFlight:
    """What a server holds now.

    Attributes:
        calls: Calls under way, and requests of streams.
        bytes: Of these, and of what they become.
        streams: Streams that are open.
        watches: Calls that watch health.
        evicted: How many messages under way were ended, ever.
    """

    calls: int
    bytes: int
    streams: int
    watches: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Access:
    """What becomes of calls that have to carry tokens.

    Attributes:
        failing: Whether the file of tokens cannot be used and those before hold; None where the
            token is of no file.
        denied: How many calls were refused, or ended, by why.
    """

    failing: bool | None
    denied: Mapping[str, int]


class ReadyCollector(Collector):
    """Renders whether the server is ready.

    Args:
        ready: What /readyz asks.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        """Yields the one family."""
        yield GaugeMetricFamily(
            "forwardpass_ready", "1 while /readyz answers 200, else 0.", value=self._ready()
        )


class ServerCollector(Collector):
    """Renders every counter of the server.

    Args:
        methods: Counters by path, such as "/forwardpass.v1.InferenceService/Predict".
        models: Gives (name, version, digest, whether it is unhealthy, counters) of every loaded
            version.
        ready: Tells of every model by its name whether it is ready.
        in_flight: Gives what is in flight now.
        transport_seconds: Tells the processor time of the transport's one thread; None where it has
            more.
        certificates: What TLS is served with; None for no TLS.
        access: Tells what becomes of calls that have to carry tokens; None where none has to.
    """

    def __init__(
        self,
        methods: dict[str, MethodCounters],
        models: Callable[[], Iterable[tuple[str, str, str, bool, ModelCounters]]],
        ready: Callable[[], Mapping[str, bool]],
        in_flight: Callable[[], InFlight],
        *,
        transport_seconds: Callable[[], float | None],
        certificates: CertificateFiles | None,
        access: Callable[[], Access] | None,
    ) -> None:
        self._methods = methods
        self._models = models
        self._ready = ready
        self._in_flight = in_flight
        self._transport_seconds = transport_seconds
        self._certificates = certificates
        self._access = access

    def collect(self) -> Iterator[Metric]:
        """Yields every family."""
        yield from self._collect_methods()
        yield from self._collect_models()
        ready = GaugeMetricFamily(
            "forwardpass_model_ready", "1 while the model is ready, else 0.", labels=["model"]
        )
        for name, is_ready in self._ready().items():
            ready.add_metric([name], is_ready)
        yield ready
        now = self._in_flight()
        for name, text, value in (
            ("calls", "Calls under way, and requests of streams.", now.calls),
            ("request_bytes", "Bytes of these, and of what they become.", now.bytes),
            ("streams", "Streams of requests that are open.", now.streams),
            ("watches", "Calls that watch health.", now.watches),
        ):
            yield GaugeMetricFamily(f"forwardpass_{name}_in_flight", text, value=value)
        yield CounterMetricFamily(
            "forwardpass_evicted",
            "Messages under way that were ended as memory ran short.",
            value=now.evicted,
        )
        yield CounterMetricFamily(
            "forwardpass_log_dropped",
            "Lines of the log that were not written.",
            value=log.dropped(),
        )
        yield from _collect_memory()
        transport_seconds = self._transport_seconds()
        if transport_seconds is not None:
            yield CounterMetricFamily(
                "forwardpass_transport_cpu_seconds",
                "Processor time of the thread that answers all calls, in seconds.",
                value=transport_seconds,
            )
        if self._certificates is not None:
            yield from _collect_certificates(self._certificates)
        if self._access is not None:
            yield from _collect_access(self._access())

    def _collect_methods(self) -> Iterator[Metric]:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily("grpc_server_started", "Calls begun.", labels=labels)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls ended, by status.", labels=[*labels, "grpc_code"]
        )
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Time from a call's arrival to its end.", labels=labels
        )
        for path, counters in self._methods.items():
            _, service, method = path.split("/")
            values = [counters.kind.value, service, method]
            started.add_metric(values, counters.started.value)
            buckets, total = counters.seconds.cumulative()
            handling.add_metric(values, buckets, total)
            for code, number in zip(CODE_NAMES, counters.handled, strict=True):
                if number.value:
                    handled.add_metric([*values, code], number.value)
        yield from (started, handled, handling)

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
        busy = CounterMetricFamily(
            "forwardpass_busy_seconds",
            "Seconds in which the model ran, for answers or in vain.",
            labels=labels,
        )
        waited = CounterMetricFamily(
            "forwardpass_queue_seconds",
            "Seconds that jobs waited, those included that were not run.",
            labels=labels,
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
            busy.add_metric(values, counters.busy_seconds)
            waited.add_metric(values, counters.queue_seconds)
            pending.add_metric(values, counters.pending())
            for reason, number in counters.dropped.items():
                dropped.add_metric([*values, reason], number.value)
            for metric, value in _triton_values(counters).items():
                triton[metric].add_metric(values, value)
        yield from (info, failing, phases, batches, busy, waited, pending, dropped)
        yield from triton.values()


def _collect_memory() -> Iterator[Metric]:
    try:
        found = memory()
    except OSError:
        # It takes a descriptor, as process_* do, which are left out then too.
        return
    yield GaugeMetricFamily(
        "forwardpass_memory_limit_bytes",
        "What the container or the machine has, whichever is less.",
        value=found.limit,
    )
    yield GaugeMetricFamily(
        "forwardpass_memory_available_bytes",
        "What nobody has taken of it.",
        value=found.available,
    )


def _collect_certificates(files: CertificateFiles) -> Iterator[Metric]:
    expires = files.current().expires.timestamp()
    yield GaugeMetricFamily(
        "forwardpass_certificate_expires_seconds",
        "When the server's certificate in use ends, in seconds since 1970.",
        value=expires,
    )
    yield GaugeMetricFamily(
        "forwardpass_certificate_failing",
        "1 while the files of certificates cannot be used and those before are, else 0.",
        value=files.failing,
    )


def _collect_access(access: Access) -> Iterator[Metric]:
    denied = CounterMetricFamily(
        "forwardpass_access_denied",
        "Calls refused, or ended, for their token, by why.",
        labels=["reason"],
    )
    for reason, number in access.denied.items():
        denied.add_metric([reason], number)
    yield denied
    if access.failing is not None:
        yield GaugeMetricFamily(
            "forwardpass_tokens_failing",
            "1 while the file of tokens cannot be used and those before hold, else 0.",
            value=access.failing,
        )


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
