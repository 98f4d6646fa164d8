"""`forwardpass-serve`: reads the settings, serves until a signal, drains."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from forwardpass.extras import needing
from forwardpass.server.process.error_stream import silence_grpc
from forwardpass.server.process.gc import keep, pause, settle
from forwardpass.server.process.lean_imports import import_structlog
from forwardpass.server.process.malloc import share_one_arena
from forwardpass.server.process.signals import Signals

if TYPE_CHECKING:
    from forwardpass.server.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits 0 after a drain, 1 if it cannot serve, 2 on a wrong setting."""
    pause()
    share_one_arena()
    silence_grpc()
    with needing("server", "forwardpass-serve"):
        sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    import_structlog()
    from forwardpass.server.options import parse
    from forwardpass.server.process import log
    from forwardpass.server.settings import SettingsError
    from forwardpass.server.settings_sources import read

    given = parse(arguments)
    try:
        settings = read(given)
    except SettingsError as error:
        return _complain(str(error), 2)
    log.configure(level=settings.log_level, form=settings.log_format, waits=given.checks)
    return check(settings) if given.checks else serve(settings)


def check(settings: "Settings") -> int:
    """Loads and measures every model without serving it; returns the exit code."""
    from forwardpass.server.build import open_repository
    from forwardpass.server.check import check
    from forwardpass.server.onnx.providers import ProviderError
    from forwardpass.server.repository.repository import RepositoryError

    try:
        return check(open_repository(settings, anew=True))
    except (RepositoryError, ProviderError) as error:
        return _complain(str(error), 1)


def serve(settings: "Settings") -> int:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.

    Returns the exit code.
    """
    from forwardpass.server.process.descriptors import raise_limit

    raise_limit()
    if settings.workers > 1:
        from forwardpass.server.workers import supervisor

        settle()
        return _serve(
            lambda: supervisor.Supervisor(settings),
            supervisor.START_ERRORS,
            settings.stop_seconds + supervisor.ENDING_SECONDS,
        )
    from forwardpass.server.app import START_ERRORS, Server
    from forwardpass.server.process.scheduling_policy import SchedulingPolicy

    keep()
    return _serve(
        lambda: Server(
            settings, loaded=settle, policy=SchedulingPolicy(settings.scheduling_policy)
        ),
        START_ERRORS,
        settings.stop_seconds,
    )


class _Serving(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


def _serve(
    make: Callable[[], _Serving], start_errors: tuple[type[Exception], ...], seconds: float
) -> int:
    from forwardpass.server.process.deadline import STOPPING_SECONDS, StopError, exit_within

    signals = Signals((signal.SIGTERM, signal.SIGINT))
    # There is no file to open anew. Workers inherit it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = make()
        server.start()
    except start_errors as error:
        return _complain(str(error), 1)
    signals.wait()
    threading.Thread(
        target=lambda: os._exit(128 + signals.wait()), name="signals", daemon=True
    ).start()
    exit_within(seconds + STOPPING_SECONDS)
    try:
        server.stop()
    except StopError as error:
        return _complain(str(error), 1)
    return 0


def _complain(message: str, code: int) -> int:
    print(f"forwardpass-serve: error: {message}", file=sys.stderr)  # noqa: T201
    return code
