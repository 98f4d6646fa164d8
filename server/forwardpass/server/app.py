"""Puts the server together: start, serve, drain, stop."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

import structlog
from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation
from prometheus_client import CollectorRegistry

from forwardpass.server import open_inference
from forwardpass.server.loading.cache import open_cache
from forwardpass.server.loading.load import LoadOptions
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.sandbox import Limits, Sandbox
from forwardpass.server.metrics.collector import ServerCollector
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.metrics.http import MetricsServer
from forwardpass.server.native.generate import Generation
from forwardpass.server.native.models import Models
from forwardpass.server.native.predict import Inference
from forwardpass.server.native.streams import Streams
from forwardpass.server.onnx.providers import CudaOptions, choose
from forwardpass.server.onnx.session import check_providers
from forwardpass.server.process.cores import available_cores
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository, RepositoryError
from forwardpass.server.repository.watch import Watcher
from forwardpass.server.rpc.authorization import authorized
from forwardpass.server.rpc.dispatch import guard
from forwardpass.server.rpc.health import Health
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.reflection import METHODS, Reflection
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.transport.call import CallType, Route
from forwardpass.server.transport.listener import SOCKET, Listener
from forwardpass.server.transport.select import create_transport, tick_of
from forwardpass.server.transport.stock import StockTransport
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.tls import TlsError, read_certificates
from forwardpass.wire.open_inference import SERVICE as OPEN_INFERENCE
from forwardpass.wire.open_inference import pool as open_inference_pool

INFERENCE = "forwardpass.v1.InferenceService"
MODELS = "forwardpass.v1.ModelService"
HEALTH = "grpc.health.v1.Health"
# After the last accepted call has ended, callers that do not know yet are told to go elsewhere
# until none has come for a while: those that gRPC itself turns away see CANCELLED instead.
_QUIET_SECONDS = 0.1
_REFUSAL_SECONDS = 1.0
_LOADING_SECONDS = 1.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_MANAGEMENT_BYTES = 1 << 20
_MANAGEMENT_CALLS = 16
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
        changed: Called with what is loaded, after each change of a version's state.

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
        changed: Callable[[Iterable[Loaded]], None] = lambda _: None,
    ) -> None:
        _require_fast_protobuf()
        self._settings = settings
        self._loaded = loaded
        self._started = time.perf_counter()
        tick = tick_of(settings.transport)
        self._repository = open_repository(settings, tick)
        self._repository.on_change(lambda: changed(one for _, one in self._repository.loaded))
        self._admission = Admission(settings.max_in_flight, settings.max_in_flight_bytes)
        self.readiness = Readiness(self._repository, (INFERENCE, MODELS, OPEN_INFERENCE))
        shared = settings.management_port == settings.port != 0
        local = settings.host in _LOOPBACK or settings.host.startswith(SOCKET)
        if shared and not local and settings.management_token is None:
            raise SettingsError(
                "management calls on a port that others can reach take a management_token"
            )
        facts = self._fact_routes() | (self._management_routes() if shared else {})
        routes, methods = guard(facts)
        work, work_methods = guard(self._work_routes(), self._admission)
        routes |= work
        methods |= work_methods
        self.registry = CollectorRegistry()
        self.registry.register(
            ServerCollector(methods, self._loaded_models, self._in_flight),
        )
        certificates = read_certificates(
            settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        )
        self._transport = create_transport(
            Listener(
                address=_address(settings.host, settings.port),
                max_message_bytes=settings.max_message_bytes,
                max_in_flight=settings.max_in_flight,
                certificates=certificates,
                shared=settings.workers > 1,
                max_connections=settings.max_connections,
                connection_seconds=settings.connection_seconds,
                grace_seconds=settings.connection_grace_seconds,
                compress=settings.compress_answers,
            ),
            routes,
            tick,
            _cores(settings),
        )
        self._management = None
        if settings.management_port is not None and not shared:
            self._management = StockTransport(
                Listener(
                    address=f"{_LOOPBACK[0]}:{settings.management_port}",
                    max_message_bytes=_MANAGEMENT_BYTES,
                    max_in_flight=_MANAGEMENT_CALLS,
                    certificates=None,
                ),
                self._management_routes(),
            )
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
        settings = self._settings
        self._repository.prepare()
        if settings.workers == 1:
            self._metrics = MetricsServer(
                settings.metrics_host,
                settings.metrics_port,
                self.registry,
                lambda: bool(self.readiness.of("")),
            )
            self.metrics_port = self._metrics.port
        self.port = self.management_port = self._transport.start()
        self.address = _address(settings.host, self.port)
        if self._management is not None:
            self.management_port = self._management.start()
        where = {"address": self.address}
        if self._metrics is not None:
            where["metrics"] = f"{settings.metrics_host}:{self.metrics_port}"
        _log.info("listening", **where)
        self._loader.start()
        if settings.watch:
            self._watcher = Watcher(self._repository.folder, self._look_again)

    def wait_loaded(self) -> None:
        """Returns when every model is ready or has failed."""
        self._loader.join()

    def stop(self) -> None:
        """Drains and stops: says so, refuses new work, finishes what was accepted."""
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
        if self._watcher is not None:
            self._watcher.stop()
        self._repository.close()
        if self._loader.is_alive():
            # It ends with what it has begun, over which ONNX Runtime may take its time.
            self._loader.join(_LOADING_SECONDS)
        if self._metrics is not None:
            self._metrics.stop()
        _log.info("stopped", unfinished=unfinished)

    def _work_routes(self) -> dict[str, Route]:
        """Returns what runs models, and is admitted first."""
        reader = self._reader()
        inference = Inference(self._repository, reader)
        generation = Generation(self._repository, reader)
        streams = Streams(inference, self._repository, reader, self.readiness)
        return {
            f"/{INFERENCE}/Predict": Route(CallType.UNARY, inference.predict),
            f"/{INFERENCE}/Embed": Route(CallType.UNARY, inference.embed),
            f"/{INFERENCE}/Generate": Route(CallType.UNARY, generation.generate),
            f"/{INFERENCE}/PredictStream": Route(CallType.BIDI_STREAM, streams.predict),
            f"/{INFERENCE}/EmbedStream": Route(CallType.BIDI_STREAM, streams.embed),
            f"/{INFERENCE}/GenerateStream": Route(
                CallType.SERVER_STREAM, generation.generate_stream
            ),
            **self._protocol(reader).work,
        }

    def _fact_routes(self) -> dict[str, Route]:
        """Returns what tells about the server and its models, whatever else is under way."""
        models = Models(self._repository)
        health = Health(self.readiness)
        routes = {
            f"/{MODELS}/ListModels": Route(CallType.UNARY, models.list_models),
            f"/{MODELS}/GetModel": Route(CallType.UNARY, models.get_model),
            f"/{HEALTH}/Check": Route(CallType.UNARY, health.check),
            f"/{HEALTH}/Watch": Route(CallType.SERVER_STREAM, health.watch),
            **self._protocol(self._reader()).facts,
        }
        if self._settings.reflection:
            reflection = Reflection(
                (INFERENCE, MODELS, OPEN_INFERENCE, HEALTH),
                [descriptor_pool.Default(), open_inference_pool()],
            )
            routes |= {method: Route(CallType.BIDI_STREAM, reflection.info) for method in METHODS}
        return routes

    def _reader(self) -> InputReader:
        return InputReader(self._settings.reject_nonfinite, self._settings.max_image_pixels)

    def _protocol(self, reader: InputReader) -> open_inference.RouteTables:
        managed = self._settings.management_port is not None
        return open_inference.routes(
            self._repository,
            reader,
            self._admission,
            self.readiness,
            self._repository if managed else None,
        )

    def _management_routes(self) -> dict[str, Route]:
        models = Models(self._repository)
        routes = {
            f"/{MODELS}/LoadModel": Route(CallType.UNARY, models.load_model, blocks=True),
            f"/{MODELS}/UnloadModel": Route(CallType.UNARY, models.unload_model, blocks=True),
            **self._protocol(self._reader()).management,
        }
        token = self._settings.management_token
        return authorized(routes, token.get_secret_value()) if token is not None else routes

    def _load(self) -> None:
        self._repository.reconcile(settle=False)
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

    def _in_flight(self) -> tuple[int, int]:
        return self._admission.calls, self._admission.bytes


def open_repository(
    settings: Settings, tick: Tick | None = None, *, anew: bool = False
) -> Repository:
    """Returns the repository that the settings name, with nothing loaded yet.

    Args:
        settings: Where it is, and how it is loaded.
        tick: Where runs of cheap models are put off to.
        anew: Whether to find everything out that the cache may know.

    Raises:
        RepositoryError: There is none.
        ProviderError: What should run the models is not there.
    """
    providers = choose(
        settings.providers,
        CudaOptions(
            settings.cuda_device,
            settings.cuda_memory_bytes,
            settings.cuda_arena,
            settings.cuda_convolutions,
            settings.cuda_ordered_copies,
            settings.cuda_tf32,
            settings.cuda_graph,
        ),
    )
    check_providers(providers)
    limits = Limits(settings.sandbox_seconds, settings.sandbox_bytes)
    threads = settings.threads or _cores(settings)
    setup = {
        "providers": [asdict(provider) for provider in providers],
        "threads": threads,
        "sandbox": asdict(limits) if settings.sandbox else None,
    }
    return Repository(
        settings.models,
        LoadOptions(
            threads=threads,
            cores=_cores(settings),
            max_queued=settings.max_queued,
            manifest_required=settings.verify == "require",
            sandbox=Sandbox(limits) if settings.sandbox else None,
            providers=providers,
            tick=tick,
            cache=open_cache(settings.cache_dir, setup, anew=anew),
        ),
    )


def _cores(settings: Settings) -> int:
    """Returns how many cores a worker may keep busy."""
    return max(1, available_cores() // settings.workers)


def _address(host: str, port: int) -> str:
    return host if host.startswith(SOCKET) else f"{host}:{port}"


def _require_fast_protobuf() -> None:
    """Refuses to run on protobuf's pure Python form: it is slow, and recurses on hostile input."""
    if (kind := api_implementation.Type()) != "upb":
        raise RuntimeError(
            f"protobuf runs as {kind!r}, but the server needs its C form, 'upb': "
            "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION and reinstall protobuf"
        )
