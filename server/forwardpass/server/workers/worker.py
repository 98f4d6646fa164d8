"""One of several workers. Run as a module, this is its process: standard input is its pipe."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict

import structlog

from forwardpass.server.process import log
from forwardpass.server.process.deadline import STOPPING_SECONDS, exit_within
from forwardpass.server.process.gc import keep, settle
from forwardpass.server.process.malloc import share_one_arena
from forwardpass.server.process.signals import Signals
from forwardpass.server.settings import Settings
from forwardpass.server.workers.aggregate import read
from forwardpass.server.workers.pipe import Pipe
from forwardpass.server.workers.process import State

_log = structlog.get_logger()


def main() -> int:
    """Serves as it is told until SIGTERM, then drains; returns the exit code."""
    share_one_arena()
    signals = Signals([signal.SIGTERM])
    pipe = Pipe(socket.socket(fileno=sys.stdin.fileno()))
    told = next(pipe.messages())
    settings = Settings(**told["settings"])
    log.configure(
        level=settings.log_level, form=settings.log_format, waits=False, worker=told["number"]
    )
    from forwardpass.server.app import START_ERRORS

    keep()
    try:
        worker = Worker(settings, pipe, loaded=signals.wake)
        worker.start(loads_first=told["replaces"])
        while not signals.wait():
            worker.listen()
    except START_ERRORS as error:
        pipe.send({"refusal": str(error)})
        return 1
    exit_within(settings.stop_seconds + STOPPING_SECONDS)
    worker.stop()
    return 0


class Worker:
    """A server that tells the supervisor how it is.

    Args:
        settings: What to serve, where, and the limits.
        pipe: To the supervisor.
        loaded: Called once, when every model is ready or has failed.

    Raises:
        Exception: Any of app.START_ERRORS.
    """

    def __init__(self, settings: Settings, pipe: Pipe, loaded: Callable[[], None]) -> None:
        from forwardpass.server.app import Server
        from forwardpass.server.process.scheduling_policy import SchedulingPolicy

        self._pipe = pipe
        self._on_end_of_load = loaded
        policy = SchedulingPolicy(settings.scheduling_policy)
        self._server = Server(settings, loaded=self._on_loaded, policy=policy)
        self._lock = threading.Lock()
        self._told = State()
        self._listening = self._loaded = False

    def start(self, *, loads_first: bool) -> None:
        """Loads the models, answers the supervisor, and serves.

        Args:
            loads_first: Whether to serve no earlier than `listen` says. The kernel gives every
                worker that listens its share of the connections, so one that has nothing loaded
                would fail calls that the others answer.

        Raises:
            Exception: Any of app.START_ERRORS.
        """
        threading.Thread(target=self._answer, name="pipe", daemon=True).start()
        self._server.readiness.watch(self._tell)
        self._tell()
        if loads_first:
            self._server.load()
        else:
            self._server.start()
            self._note_listening()

    def listen(self) -> None:
        """Serves from now on, where it does not yet.

        Raises:
            OSError: The port cannot be bound.
        """
        if not self._listening:
            self._server.listen()
            self._note_listening()

    def stop(self) -> None:
        """Drains and stops."""
        self._server.stop()

    def _on_loaded(self) -> None:
        settle()
        self._loaded = True
        self._tell()
        self._on_end_of_load()

    def _note_listening(self) -> None:
        self._listening = True
        self._tell()

    def _tell(self) -> None:
        """Tells what has changed."""
        with self._lock:
            ready = self._listening and bool(self._server.readiness.of(""))
            state = State(
                answering=True, listening=self._listening, loaded=self._loaded, ready=ready
            )
            if state != self._told:
                self._told = state
                self._pipe.send({"state": asdict(state)})

    def _answer(self) -> None:
        """Answers each question, and ends the process once nobody is there to ask."""
        for question in self._pipe.messages():
            try:
                counted = question == "counted"
                answer = {"counted": read(self._server.registry)} if counted else {"alive": True}
            except Exception:  # noqa: BLE001  # logged with its traceback
                # The supervisor takes it that there is nothing new.
                _log.exception("not_counted")
                answer = {"alive": True}
            self._pipe.send(answer)
        # Calls under way are cut off, as when a server that is one process is killed.
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
