"""From settings to the parts of a server, not yet started: the repository and the transports."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from forwardpass.server.loading.cache import open_cache
from forwardpass.server.loading.options import LoadOptions
from forwardpass.server.loading.sandbox import Limits, Sandbox
from forwardpass.server.metrics.collector import Access
from forwardpass.server.metrics.counters import MethodCounters
from forwardpass.server.onnx.providers import CudaOptions, choose
from forwardpass.server.onnx.run_memory import limit_run_memory
from forwardpass.server.onnx.session import check_providers, shrink_run_memory
from forwardpass.server.process.cores import available_cores
from forwardpass.server.process.malloc import trim
from forwardpass.server.process.memory import memory
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.routes import Services, methods
from forwardpass.server.rpc.authorization import Authorization
from forwardpass.server.rpc.dispatch import Method, routes, unknown_route
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.token_file import (
    LINES,
    TokenFile,
    TokenFileError,
    TokenFormat,
    management_token,
)
from forwardpass.server.rpc.token_table import TABLE
from forwardpass.server.rpc.tokens import Permission
from forwardpass.server.scheduling.admission import Admission, AdmissionLimits
from forwardpass.server.scheduling.token_admission import TokenAdmission
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.transport.address import SOCKET, address_of
from forwardpass.server.transport.certificate_files import CertificateFiles
from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import Route, Transport
from forwardpass.server.transport.select import create_transport
from forwardpass.server.transport.stock import StockTransport
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.transit import Room, Transit

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MANAGEMENT_BYTES = 1 << 20
# Of the memory, runs may take this part, and requests that: each becomes up to five times as much,
# with what it is gathered into, its outputs and its answer.
_RUN_PART, _REQUEST_PART = 4, 16
_MANAGEMENT_CALLS = 16


@dataclass(frozen=True, slots=True)
class Transports:
    """What listens.

    Attributes:
        main: Where calls are answered.
        management: Where management calls are answered; None where `main` answers them, or nobody.
        transit: What is on its way to and from `main`.
        counters: What is counted of each method, by path.
        access: Tells what becomes of calls that have to carry tokens; None where none has to.
    """

    main: Transport
    management: Transport | None
    transit: Transit
    counters: dict[str, MethodCounters]
    access: Callable[[], Access] | None


def build_admission(settings: Settings) -> Admission:
    """Returns what bounds the calls in flight."""
    kind = Admission if settings.tokens_file is None else TokenAdmission
    return kind(
        AdmissionLimits(
            calls=settings.max_in_flight,
            bytes=settings.max_in_flight_bytes or _memory(settings) // _REQUEST_PART,
            streams=settings.max_streams,
            watches=settings.max_watches,
            share=settings.connection_share,
        )
    )


def build_transports(
    settings: Settings,
    repository: Repository,
    readiness: Readiness,
    admission: Admission,
    tick: Tick | None,
    *,
    certificates: CertificateFiles | None,
    look: Callable[[int], None],
) -> Transports:
    """Returns what listens as the settings say, with nothing bound yet.

    Args:
        settings: Where to listen, and the limits.
        repository: The models.
        readiness: What is ready.
        admission: Admits calls.
        tick: Where runs of cheap models are deferred to; None for the stock transport.
        certificates: What to serve TLS with; None for no TLS.
        look: Is told how much the transport takes in, as `create_transport` says.

    Raises:
        SettingsError: The settings contradict each other.
    """
    is_shared = settings.management_port == settings.port != 0
    manages = settings.management_port is not None
    guard = _guard(settings, has_tls=certificates is not None)
    authorization = None if guard is None else guard.authorization
    if is_shared and not _is_local(settings) and authorization is None:
        raise SettingsError(
            "management calls on a port that others can reach take a management_token, a "
            "management_token_file, or a tokens_file"
        )
    reader = InputReader(admission, settings.reject_nonfinite, settings.max_image_pixels)
    services = Services(
        repository,
        readiness,
        reader,
        admission,
        settings.max_message_bytes,
        settings.reflection,
        manages,
        Permission.READ if settings.health_needs_token else None,
    )
    table = methods(services)
    managing = {
        path: method for path, method in table.items() if method.permission is Permission.MANAGE
    }
    served = table if is_shared else {path: table[path] for path in table.keys() - managing.keys()}
    counted = served | managing if manages else served
    counters = {path: MethodCounters(method.call_type) for path, method in counted.items()}
    unknown = unknown_route(authorization)

    def gated(some: dict[str, Method]) -> dict[str, Route]:
        return routes(some, counters, admission, authorization)

    transit = Transit(settings.max_message_bytes, partial(_room, settings.workers), _give_back)
    main = create_transport(
        _listener(settings, certificates),
        gated(served),
        tick,
        transit,
        cores(settings),
        look=look,
        unknown=unknown,
    )
    management = None
    if manages and not is_shared:
        listener = Listener(
            address=f"{_LOOPBACK[0]}:{settings.management_port}",
            max_message_bytes=_MANAGEMENT_BYTES,
            max_in_flight=_MANAGEMENT_CALLS,
            max_open=_MANAGEMENT_CALLS,
            certificates=None,
        )
        management = StockTransport(
            listener,
            gated(managing),
            Transit(_MANAGEMENT_BYTES, partial(_room, settings.workers), _give_back),
            unknown,
        )
    access = None if guard is None else guard.access
    return Transports(main, management, transit, counters, access)


def _give_back() -> None:
    """Gives memory back to the system that runs and messages have left behind."""
    shrink_run_memory()
    trim()


def open_repository(
    settings: Settings, tick: Tick | None = None, *, anew: bool = False
) -> Repository:
    """Returns the repository that the settings name, with nothing loaded yet.

    Args:
        settings: Where it is, and how it is loaded.
        tick: Where runs of cheap models are deferred to.
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
    limit_run_memory(settings.run_memory_bytes or _memory(settings) // _RUN_PART)
    check_providers(providers)
    limits = Limits(settings.sandbox_seconds, settings.sandbox_bytes)
    threads = settings.threads or cores(settings)
    setup = {
        "providers": [asdict(provider) for provider in providers],
        "threads": threads,
        "sandbox": asdict(limits) if settings.sandbox else None,
    }
    return Repository(
        settings.models,
        LoadOptions(
            threads=threads,
            cores=cores(settings),
            max_queued=settings.max_queued,
            manifest_required=settings.verify == "require",
            sandbox=Sandbox(limits) if settings.sandbox else None,
            providers=providers,
            tick=tick,
            cache=open_cache(settings.cache_dir, setup, anew=anew),
            follow_links=settings.follow_links,
        ),
    )


def cores(settings: Settings) -> int:
    """Returns how many cores a worker may keep busy."""
    return max(1, available_cores() // settings.workers)


def _room(workers: int) -> Room:
    """Returns a worker's share of the memory."""
    found = memory()
    return Room(found.limit // workers, found.available // workers)


def _memory(settings: Settings) -> int:
    """Returns how much memory a worker may take."""
    return _room(settings.workers).limit


@dataclass(frozen=True, slots=True)
class _Guard:
    """What stands before calls that have to carry tokens.

    Attributes:
        authorization: Tells which of them pass.
        file: Where their tokens are; None for the one of `management_token`.
    """

    authorization: Authorization
    file: TokenFile | None

    def access(self) -> Access:
        """Returns what has become of them; the file is looked at, as without calls nobody does."""
        if self.file is not None:
            self.file.current()
        denied = {why: count.value for why, count in self.authorization.denied.items()}
        return Access(None if self.file is None else self.file.failing, denied)


def _guard(settings: Settings, *, has_tls: bool) -> _Guard | None:
    """Returns what stands before calls that have to carry tokens; None where none has to.

    Raises:
        SettingsError: There is no token where one was promised, or others could read it.
    """
    if settings.tokens_file is not None:
        if not (has_tls or settings.tokens_without_tls or _is_local(settings)):
            raise SettingsError(
                f"setting 'tokens_file': on {settings.host} others could read the tokens, as there "
                "is no TLS: give --tls-certificate and --tls-key, or --tokens-without-tls where a "
                "service mesh encrypts"
            )
        file = _token_file("tokens_file", settings.tokens_file, TABLE)
        return _Guard(Authorization(file.current, everywhere=True), file)
    if settings.management_port is None:
        return None
    if settings.management_token_file is not None:
        file = _token_file("management_token_file", settings.management_token_file, LINES)
        return _Guard(Authorization(file.current, everywhere=False), file)
    if settings.management_token is None:
        return None
    token = settings.management_token.get_secret_value()
    if not token.strip():
        raise SettingsError(
            "setting 'management_token' is empty, which would let anybody manage: give a token, or "
            "take the setting away, as by unsetting FORWARDPASS_MANAGEMENT_TOKEN"
        )
    held = (management_token(token.encode()),)
    return _Guard(Authorization(lambda: held, everywhere=False), None)


def _token_file(setting: str, path: Path, written: TokenFormat) -> TokenFile:
    """Returns the tokens of the file that a setting names.

    Raises:
        SettingsError: The file has none.
    """
    try:
        return TokenFile(path, written)
    except TokenFileError as error:
        raise SettingsError(f"setting {setting!r}: {error}") from None


def _is_local(settings: Settings) -> bool:
    return settings.host in _LOOPBACK or settings.host.startswith(SOCKET)


def _listener(settings: Settings, certificates: CertificateFiles | None) -> Listener:
    return Listener(
        address=address_of(settings.host, settings.port),
        max_message_bytes=settings.max_message_bytes,
        max_in_flight=settings.max_in_flight,
        max_open=settings.max_in_flight + settings.max_streams + settings.max_watches,
        certificates=certificates,
        shared=settings.workers > 1,
        max_connections=settings.max_connections,
        connection_seconds=settings.connection_seconds,
        grace_seconds=settings.connection_grace_seconds,
        idle_seconds=settings.connection_idle_seconds,
        compress=settings.compress_answers,
    )
