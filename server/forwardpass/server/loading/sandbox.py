"""Tries a new graph in a process of its own, so that one that kills its process kills no server.

ONNX Runtime is native code that reads what somebody else made, and parsing what is small may take
any amount of memory. The first load of a version happens here, under limits of memory and time;
only what survives parsing, loading and one run goes on to the server's own process.
`loading/trial.py` is that process: it is told a version a line, and answers each with a verdict.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forwardpass.server.loading.division import Guards
from forwardpass.server.loading.source import SourceError, Unparsed

# Without the folder that the server was started in on its path, as the command itself.
_COMMAND = [sys.executable, "-P", "-m", "forwardpass.server.loading.trial"]
_STOPPED = "the server is shutting down; it was not tried to the end"
# What a Python with ONNX Runtime needs of the server's environment. The rest stays behind: there
# may be secrets in it, the management token for one.
_NEEDED = {
    *("PATH", "HOME", "TMPDIR", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
    *("PYTHONNOUSERSITE", "PYTHONUTF8", "ORT_DISABLE_TELEMETRY", "MALLOC_ARENA_MAX"),
}


class SandboxError(Exception):
    """A version that would have killed the server; the message says how."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a graph may use to load and to run once.

    Attributes:
        seconds: Of time, and of processor time.
        extra_bytes: Of memory, beyond what its size explains.
    """

    seconds: float
    extra_bytes: int


@dataclass(frozen=True, slots=True)
class Tried:
    """What the process tells of a graph that it survived.

    Attributes:
        identity: The `Source.identity` of what was tried.
        guards: Which divisions of the graph must be guarded; None where it could not be run.
    """

    identity: str
    guards: Guards | None


class Sandbox:
    """The process, one for all graphs as long as none kills it; the next try starts another.

    Args:
        limits: What each graph may use.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def start(self) -> None:
        """Starts the process ahead of the first try."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def stop(self) -> None:
        """Ends the process for good, also in the middle of a try, which then fails."""
        self._stopped = True
        while not self._lock.acquire(timeout=0.1):
            if (process := self._process) is not None:
                process.kill()
        self._end()
        self._lock.release()

    def check(self, unparsed: Unparsed, dims: Mapping[str, Sequence[int]] | None = None) -> Tried:
        """Parses a version's files, loads its graph and runs it once, in the process.

        A graph that merely cannot be loaded or run there fails again, with its reason, in the
        server, if it fails on the server's providers too.

        Args:
            unparsed: The files, not looked into yet.
            dims: Extents that a configuration states, by input; -1 for any.

        Raises:
            SandboxError: The process crashed, took too long or too much memory.
            SourceError: The files cannot be parsed.
        """
        question = {
            "root": str(unparsed.files.root.absolute()),
            "follow_links": [str(path.absolute()) for path in unparsed.files.follow_links],
            "folder": str(unparsed.folder),
            "dims": {name: list(extents) for name, extents in (dims or {}).items()},
            "extra_bytes": self._limits.extra_bytes,
            "seconds": max(1, int(self._limits.seconds)),
        }
        with self._lock:
            answer = self._ask(json.dumps(question))
            if "exceeded" in answer:
                # What it still holds of the graph would be missing for the next one.
                self._end()
        if "exceeded" in answer:
            raise SandboxError(
                f"loading it or running it once took more than {answer['exceeded'] >> 20} MiB"
            )
        if "reason" in answer:
            raise SourceError(answer["reason"])
        guards = answer.get("guards")
        return Tried(answer["identity"], None if guards is None else dict(guards))

    def _ask(self, question: str) -> Mapping[str, Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._death(process) from None
        if not select.select([process.stdout], [], [], self._limits.seconds)[0]:
            self._end()
            raise SandboxError(
                f"loading it and running it once took more than {self._limits.seconds:g} s"
            )
        line = process.stdout.readline()
        if not line:
            raise self._death(process)
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _running(self) -> "subprocess.Popen[str]":
        if self._stopped:
            raise SandboxError(_STOPPED)
        if self._process is None:
            self._process = subprocess.Popen(
                _COMMAND,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _death(self, process: "subprocess.Popen[str]") -> SandboxError:
        """Returns what to say of a process that has ended by itself."""
        code = process.wait()
        self._end()
        if self._stopped:
            return SandboxError(_STOPPED)
        if code == -signal.SIGXCPU:
            return SandboxError(f"it took more than {self._limits.seconds:g} s of processor time")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return SandboxError(f"loading it or running it once crashed with {how}")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _NEEDED or name.startswith("LC_")
    }
