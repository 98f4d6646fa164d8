"""Puts the server together: start, serve, drain, stop."""

import threading
import time
from collections.abc import Callable, Iterator

import structlog
from google.protobuf.internal import api_implementation
from prometheus_client import CollectorRegistry, ProcessCollector

from forwardpass.server.build import build_admission, build_transports, open_repository
from forwardpass.server.metrics.collector import InFlight, ServerCollector
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.metrics.http import MetricsServer
from forwardpass.server.process.scheduling_policy import SchedulingPolicy
from forwardpass.server.repository.readiness import Policy, Readiness
from forwardpass.server.repository.repository import RepositoryError
from forwardpass.server.repository.watch import Watcher
from forwardpass.server.routes import INFERENCE, MODELS
from forwardpass.server.settings import Settings, SettingsError, naming
from forwardpass.server.transport.address import SOCKET, address_of
from forwardpass.server.transport.certificate_files import open_certificates
from forwardpass.server.transport.select import tick_of
from forwardpass.server.transport.tls import TlsError
from forwardpass.wire.open_inference import SERVICE as OPEN_INFERENCE

# After the last accepted call has ended, callers that do not know yet are told to go elsewhere
# until none has come for a while: those that gRPC itself turns away see CANCELLED instead.
_QUIET_SECONDS = 0.1
_REFUSAL_SECONDS = 1.0
_LOADING_SECONDS = 1.0
# What keeps a server from starting; the message says why.
START_ERRORS = (RepositoryError, TlsError, SettingsError, OSError, RuntimeError)
_log = structlog.get_logger()


class Server:
    """A server and everything it owns. Where there are several workers, it is one of them.

    Attributes:
        readiness: Whether it answers, and each of its models.
        registry: What it counts.
        port: Where gRPC listens, once it has started; 0 before.
        metrics_port: Where /metrics is; 0 also for one of several workers, which has none.
        management_port: Where management calls are answered, if at all.

    Args:
        settings: Where to listen, what to serve, and the limits.
        loaded: Called once, when every model is ready or has failed.
        policy: Of the process's threads, where the process is the server's own.

    Raises:
        RepositoryError: There is no model repository.
        ProviderError: What should run the models is not there.
        TlsError: The certificates cannot be used.
        SettingsError: The settings contradict each other.
    """

    def __init__(
        self,
        settings: Settings,
        loaded: Callable[[], None] = lambda: None,
        policy: SchedulingPolicy | None = None,
    ) -> None:
        _require_fast_protobuf()
        self._settings = settings
        self._loaded = loaded
        self._started = time.perf_counter()
        tick = tick_of(settings.transport)
        self._repository = open_repository(settings, tick)
        if policy is not None:
            policy.follow(lambda: (one.runs_inline for _, one in self._repository.loaded))
            self._repository.on_change(policy.adapt)
        self._admission = build_admission(settings)
        self.readiness = Readiness(
            self._repository,
            (INFERENCE, MODELS, OPEN_INFERENCE),
            Policy(settings.readiness),
            may_be_empty=settings.watch or settings.management_port is not None,
        )
        self._certificates = open_certificates(
            settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        )
        transports = build_transports(
            settings,
            self._repository,
            self.readiness,
            self._admission,
            tick,
            certificates=self._certificates,
            look=(lambda _: None) if policy is None else policy.look,
        )
        self._transport, self._management = transports.main, transports.management
        self._transit = transports.transit
        self.registry = CollectorRegistry()
        self.registry.register(
            ServerCollector(
                transports.counters,
                self._loaded_models,
                self._ready_models,
                self._in_flight,
                transport_seconds=self._transport.cpu_seconds,
                certificates=self._certificates,
                access=transports.access,
            ),
        )
        ProcessCollector(registry=self.registry)
        self._loader = threading.Thread(target=self._load, name="loader", daemon=True)
        self._metrics: MetricsServer | None = None
        self._watcher: Watcher | None = None
        self.address = ""
        self.port = 0
        self.metrics_port = 0
        self.management_port = 0

    def start(self) -> None:
        """Binds its ports, then loads the models in the background.

        Raises:
            OSError: A port cannot be bound.
        """
        self._repository.prepare()
        self._bind()
        self._loader.start()
        self._watch()

    def load(self) -> None:
        """Loads the models in the background with no port bound: `listen` is to follow."""
        self._repository.prepare()
        self._loader.start()

    def listen(self) -> None:
        """Binds its ports, once the models have been loaded after `load`.

        Raises:
            OSError: A port cannot be bound.
        """
        self._bind()
        self._watch()

    def wait_loaded(self) -> None:
        """Returns when every model is ready or has failed."""
        self._loader.join()

    def stop(self) -> None:
        """Drains and stops: says so, refuses new work, finishes what was accepted."""
        if self._settings.drain_delay_seconds:
            _log.info("leaving", seconds=self._settings.drain_delay_seconds)
            self.readiness.leave()
            time.sleep(self._settings.drain_delay_seconds)
        self.readiness.drain()
        self._admission.close()
        _log.info("draining", calls=self._admission.calls)
        finished = self._admission.wait_idle(self._settings.drain_seconds)
        unfinished = 0 if finished else self._admission.calls
        if finished:
            self._admission.wait_quiet(_QUIET_SECONDS, _REFUSAL_SECONDS)
        self._transport.stop(_REFUSAL_SECONDS if finished else 0)
        if self._management is not None:
            self._management.stop(_REFUSAL_SECONDS)
        # First what loads, which the watcher may be waiting for.
        self._repository.stop_loading()
        if self._watcher is not None:
            self._watcher.stop(_LOADING_SECONDS)
        self._repository.close()
        if self._loader.is_alive():
            # It ends with what it has begun, over which ONNX Runtime may take its time.
            self._loader.join(_LOADING_SECONDS)
        if self._metrics is not None:
            self._metrics.stop()
        _log.info("stopped", unfinished=unfinished)

    def _bind(self) -> None:
        settings = self._settings
        if settings.workers == 1:
            with naming("metrics_host", "metrics_port"):
                self._metrics = MetricsServer(
                    settings.metrics_host,
                    settings.metrics_port,
                    self.registry,
                    lambda: bool(self.readiness.of("")),
                    self._is_alive,
                    lambda: self.readiness.started,
                    self._certificates if settings.metrics_tls else None,
                )
            self.metrics_port = self._metrics.port
        with naming("host", *([] if settings.host.startswith(SOCKET) else ["port"])):
            self.port = self.management_port = self._transport.start()
        self.address = address_of(settings.host, self.port)
        if self._management is not None:
            with naming("management_port"):
                self.management_port = self._management.start()
        where = {"address": self.address}
        if self._metrics is not None:
            where["metrics"] = address_of(settings.metrics_host, self.metrics_port)
        _log.info("listening", **where)

    def _watch(self) -> None:
        if self._settings.watch:
            self._watcher = Watcher(self._repository.folder, self._look_again)

    def _load(self) -> None:
        try:
            self._repository.reconcile(settle=False)
        except Exception:  # noqa: BLE001  # the server serves what it has, and probes tell
            _log.exception("loader_failed")
        self.readiness.start()
        newest = {name: model.newest_ready for name, model in self._repository.models.items()}
        _log.info(
            "ready" if self.readiness.ready else "not_ready",
            models={name: version and version.number for name, version in newest.items()},
            seconds=round(time.perf_counter() - self._started, 3),
        )
        self._loaded()

    def _look_again(self) -> bool:
        self._loader.join()
        return self._repository.reconcile(settle=True)

    def _loaded_models(self) -> Iterator[tuple[str, str, str, bool, ModelCounters]]:
        for version, loaded in self._repository.loaded:
            number = str(loaded.number)
            yield loaded.name, number, loaded.digest, version.failing, loaded.counters

    def _is_alive(self) -> bool:
        """Whether no thread that the server cannot do without has died or hangs."""
        watches = self._watcher is None or self._watcher.is_alive
        # A version that is being released ends its threads.
        runs = all(
            loaded.executor.is_alive for version, loaded in self._repository.loaded if version.ready
        )
        return watches and runs and self._transport.is_alive()

    def _ready_models(self) -> dict[str, bool]:
        return {name: self.readiness.of_model(name) for name in self._repository.models}

    def _in_flight(self) -> InFlight:
        held = self._admission
        return InFlight(held.calls, held.bytes, held.streams, held.watches, self._transit.evicted)


def _require_fast_protobuf() -> None:
    """Refuses to run on protobuf's pure Python form: it is slow, and recurses on hostile input."""
    if (kind := api_implementation.Type()) != "upb":
        raise RuntimeError(
            f"protobuf runs as {kind!r}, but the server needs its C form, 'upb': "
            "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION and reinstall protobuf"
        )
