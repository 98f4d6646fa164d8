"""Starts the workers, keeps them running, and answers for all of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from forwardpass.server.metrics.http import MetricsServer
from forwardpass.server.process.deadline import STOPPING_SECONDS, StopError
from forwardpass.server.settings import Settings, naming
from forwardpass.server.transport.address import address_of
from forwardpass.server.transport.certificate_files import open_certificates
from forwardpass.server.transport.tls import TlsError
from forwardpass.server.workers.aggregate import Aggregate
from forwardpass.server.workers.port import Port
from forwardpass.server.workers.process import WorkerProcess

# How long workers may take to answer, in seconds: less than probes and scrapes wait for us.
_PATIENCE = 2.0
# What ending the workers may take beyond the time that they have themselves, and of it what one
# may take that is killed, in seconds.
ENDING_SECONDS, _KILLING_SECONDS = 3.0, 1.0
_log = structlog.get_logger()


class StartError(RuntimeError):
    """A worker cannot start; the message is its own."""


# What keeps it from starting; the message says why.
START_ERRORS = (OSError, RuntimeError, TlsError)


class Supervisor:
    """Several workers and the metrics port.

    Args:
        settings: Where to listen, what to serve, and how many workers do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.perf_counter()
        self._changed = threading.Condition()
        self._aggregate = Aggregate()
        self._workers: list[WorkerProcess] = []
        self._stopping = False
        self._ports = ExitStack()

    def start(self) -> None:
        """Takes both ports, and returns when every worker listens or has done so.

        Raises:
            OSError: A port cannot be had.
            StartError: A worker cannot start.
            TlsError: The certificates cannot be used.
        """
        settings = self._settings
        with ExitStack() as ports:
            with naming("host", "port"):
                port = Port(settings.host, settings.port)
            ports.callback(port.close)
            theirs = settings.model_copy(update={"port": port.number})
            self._workers = [
                WorkerProcess(index, theirs, self._aggregate, self._changed)
                for index in range(settings.workers)
            ]
            metrics = self._serve_metrics()
            ports.callback(metrics.stop)
            for worker in self._workers:
                worker.start()
            self._wait_listening()
            self._ports = ports.pop_all()
        _log.info(
            "listening",
            address=address_of(settings.host, port.number),
            metrics=address_of(settings.metrics_host, metrics.port),
            workers=settings.workers,
        )
        threading.Thread(target=self._tell_loaded, name="loaded", daemon=True).start()

    def stop(self) -> None:
        """Has all workers drain, and ends them where they do not.

        Raises:
            StopError: One has not ended by itself.
        """
        _log.info("draining")
        self._stop_workers(self._settings.stop_seconds)
        self._ports.close()
        if late := [str(worker.index) for worker in self._workers if worker.cut_off]:
            raise StopError(f"cut off what did not end in time: worker {', '.join(late)}")
        _log.info("stopped")

    @property
    def ready(self) -> bool:
        """Whether every worker is."""
        return not self._stopping and all(worker.state.ready for worker in self._workers)

    @property
    def alive(self) -> bool:
        """Whether every worker that has answered us still does, and none ends again and again."""
        return self._ask("alive") and not any(worker.loops for worker in self._workers)

    @property
    def restarts(self) -> int:
        """How often workers have been started again."""
        return sum(worker.restarts for worker in self._workers)

    def count(self) -> Aggregate:
        """Returns what all workers have counted by now; of one that does not answer, before."""
        if self._ask("counted") and all(worker.state.loaded for worker in self._workers):
            self._aggregate.prune()
        return self._aggregate

    def _serve_metrics(self) -> MetricsServer:
        registry = CollectorRegistry()
        registry.register(_Scrape(self))
        settings = self._settings
        certificates = None
        if settings.metrics_tls:
            certificates = open_certificates(
                settings.tls_certificate, settings.tls_key, settings.tls_client_ca
            )
        with naming("metrics_host", "metrics_port"):
            return MetricsServer(
                settings.metrics_host,
                settings.metrics_port,
                registry,
                lambda: self.ready,
                lambda: self.alive,
                lambda: all(worker.state.loaded for worker in self._workers),
                certificates,
            )

    def _ask(self, question: str) -> bool:
        """Asks all at once; whether all have answered."""
        deadline = time.monotonic() + _PATIENCE
        numbers = [(worker, worker.ask(question)) for worker in self._workers]
        answers = [worker.answered(number, deadline) for worker, number in numbers]
        return all(answers)

    def _wait_listening(self) -> None:
        workers = self._workers
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    any(worker.refusal is not None for worker in workers)
                    or all(worker.has_listened for worker in workers)
                )
            )
        refusals = [worker.refusal for worker in workers if worker.refusal is not None]
        if refusals:
            self._stop_workers(0.0)
            raise StartError(refusals[0])

    def _stop_workers(self, seconds: float) -> None:
        """Stops all, which have this time for their calls."""
        timeout = seconds + STOPPING_SECONDS + ENDING_SECONDS - _KILLING_SECONDS
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            if not worker.wait(max(0.0, deadline - time.monotonic())):
                _log.error("worker_killed", number=worker.index, reason=f"after {timeout:g} s")
                worker.kill()
                worker.wait(_KILLING_SECONDS)

    def _tell_loaded(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or all(worker.state.loaded for worker in self._workers)
            )
        if not self._stopping:
            _log.info(
                "ready" if self.ready else "not_ready",
                workers=len(self._workers),
                seconds=round(time.perf_counter() - self._began, 3),
            )


class _Scrape(Collector):
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        yield from self._supervisor.count().collect()
        yield CounterMetricFamily(
            "forwardpass_worker_restarts",
            "How often a worker that ended was started again.",
            value=self._supervisor.restarts,
        )
