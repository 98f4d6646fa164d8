"""A worker as the supervisor sees it: a process that is started again whenever it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import structlog

from forwardpass.server.settings import PREFIX, SECRETS, Settings
from forwardpass.server.workers.aggregate import Aggregate
from forwardpass.server.workers.pipe import Pipe

# Without the folder that the server was started in on its path, as the command itself.
_COMMAND = [sys.executable, "-P", "-m", "forwardpass.server.workers.worker"]
# Seconds from a worker's end to the next start: twice as long each time, up to the second number.
_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# A worker that has lived so long, in seconds, has not ended at once.
_LONG = 60.0
# After this many ends at once a worker is taken to be broken.
_LOOP = 5
# After a drain, or before there was anything to drain.
_ENDED_IN_TIME = (0, -signal.SIGTERM)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class State:
    """What a worker has told of itself.

    Attributes:
        answering: It answers our questions.
        listening: It answers calls.
        loaded: Every model is ready or has failed.
        ready: It listens and is ready, as its health service says.
    """

    answering: bool = False
    listening: bool = False
    loaded: bool = False
    ready: bool = False


class WorkerProcess:
    """One of the workers.

    Attributes:
        state: What the process that runs has told; as at the start when none runs.
        has_listened: Whether a process of its has come to listen; those that follow load first.
        refusal: Why the first process did not come to listen, after which no other is started.
        restarts: How often it has been started again.
        cut_off: Whether it did not end by itself after `stop`.

    Args:
        index: Its number, from 0.
        settings: What it is to do; the port is known by now.
        aggregate: Where what it has counted is added up.
        changed: Notified of each change of the attributes.
    """

    def __init__(
        self, index: int, settings: Settings, aggregate: Aggregate, changed: threading.Condition
    ) -> None:
        self.index = index
        self.state = State()
        self.has_listened = False
        self.refusal: str | None = None
        self.restarts = 0
        self.cut_off = False
        self._settings = settings
        self._aggregate = aggregate
        self._changed = changed
        self._stopping = False
        self._started = 0.0
        self._ends = 0
        self._reason: str | None = None
        self._asked = 0
        self._answered = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._thread = threading.Thread(target=self._keep, name=f"worker-{index}", daemon=True)

    def start(self) -> None:
        """Starts it, and from now on whenever it ends."""
        self._thread.start()

    def stop(self) -> None:
        """Has it drain and end, and starts it no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.terminate()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for its end after `stop`; whether that came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """Ends it at once."""
        with self._changed:
            if self._process is not None:
                self._process.kill()

    @property
    def loops(self) -> bool:
        """Whether it ends again and again soon after its start."""
        return self._ends >= _LOOP and time.monotonic() - self._started < _LONG

    def ask(self, question: str) -> int | None:
        """Asks, where it answers, and returns the number of the question.

        Args:
            question: "alive", or "counted" for what it has counted, which goes into the aggregate.
        """
        with self._changed:
            if not self.state.answering or self._pipe is None:
                return self._asked
            if not self._pipe.offer(question):
                return None
            self._asked += 1
            return self._asked

    def answered(self, number: int | None, deadline: float) -> bool:
        """Waits until the question is answered, or nobody is left to answer it.

        Args:
            number: The question's.
            deadline: Up to when, by `time.monotonic`.

        Returns:
            False where it does not answer.
        """
        if number is None:
            return False
        with self._changed:
            return self._changed.wait_for(
                lambda: self._answered >= number, max(0.0, deadline - time.monotonic())
            )

    def _keep(self) -> None:
        while self._wait_for_turn():
            try:
                process, pipe = self._begin()
            except OSError as error:
                self._end(f"could not be started: {error.strerror}", is_failure=False)
                continue
            for message in pipe.messages():
                self._take(message)
            code = process.wait()
            pipe.close()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._end(f"ended with {how}", is_failure=code not in _ENDED_IN_TIME)

    def _wait_for_turn(self) -> bool:
        """Waits a while where a process has ended; whether one is to be started."""
        with self._changed:
            pause = min(_PAUSE * 2 ** (self._ends - 1), _LONGEST_PAUSE) if self._ends else 0.0
            over = self._changed.wait_for(lambda: self._stopping, pause)
            return not over and self.refusal is None

    def _begin(self) -> tuple["subprocess.Popen[bytes]", Pipe]:
        with self._changed:
            self.restarts += self.has_listened
            self._started = time.monotonic()
            self._process, self._pipe = _start(
                self.index, self._settings, replaces=self.has_listened
            )
            if self._stopping:
                self._process.terminate()
            return self._process, self._pipe

    def _take(self, message: Any) -> None:
        with self._changed:
            match message:
                case {"state": state}:
                    self.state = State(**state)
                    self.has_listened |= self.state.listening
                case {"refusal": reason}:
                    self._reason = reason
                case {"counted": families}:
                    self._aggregate.take(self.index, families)
                    self._answered += 1
                case {"alive": _}:
                    self._answered += 1
            self._changed.notify_all()

    def _end(self, how: str, *, is_failure: bool) -> None:
        with self._changed:
            reason, self._reason = self._reason, None
            at_once = time.monotonic() - self._started < _LONG
            self._ends = self._ends + 1 if at_once else 1
            self._aggregate.ended(self.index)
            self.state = State()
            self._answered = self._asked
            self._process = self._pipe = None
            if not self.has_listened:
                self.refusal = reason or f"worker {self.index} {how} before it listened"
            is_news = self.has_listened and not self._stopping
            self.cut_off = self._stopping and is_failure and reason is None
            self._changed.notify_all()
        if is_news:
            _log.error("worker_ended", number=self.index, how=how, reason=reason)


def _start(
    index: int, settings: Settings, *, replaces: bool
) -> tuple["subprocess.Popen[bytes]", Pipe]:
    ours, theirs = socket.socketpair()
    with theirs:
        # Its settings are those that it is sent: a file or a variable may have changed since.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        # Of a group of its own: a terminal's interrupt is for the supervisor, which then decides.
        process = subprocess.Popen(
            _COMMAND, stdin=theirs.fileno(), env=environment, process_group=0
        )
    pipe = Pipe(ours)
    told = settings.model_dump(mode="json", exclude=set(SECRETS))
    pipe.send({"number": index, "settings": told, "replaces": replaces})
    return process, pipe
