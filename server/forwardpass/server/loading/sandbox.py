"""Tries a new graph in a process of its own, so that one that kills its process kills no server.

ONNX Runtime is native code that reads what somebody else made. The first load of a version happens
here, under limits of memory and time; only a graph that survives loading and one run goes on to the
server's own process. Run as a module, this is that process: it is told a folder a line, and answers
each with a verdict.
"""

import json
import resource
import select
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from forwardpass.server.loading.files import Source

_COMMAND = [sys.executable, "-m", "forwardpass.server.loading.sandbox"]
_FINE, _OUT_OF_MEMORY = "fine", "out of memory"
_STOPPED = "the server is shutting down; it was not tried to the end"
# What a Python with ONNX Runtime and an empty graph reserves of its address space.
_BASE_BYTES = 4 << 30
# A graph holds its weights, a copy that is optimised, and what it computes.
_COPIES = 6


class SandboxError(Exception):
    """A graph that would have killed the server; the message says how."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a graph may use to load and to run once.

    Attributes:
        seconds: Of time, and of processor time.
        extra_bytes: Of memory, beyond what its size explains.
    """

    seconds: float
    extra_bytes: int


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

    def check(self, folder: Path, source: Source) -> None:
        """Loads a version's graph and runs it once, in the process.

        What merely fails there fails again, with its reason, in the server: only what would have
        killed the server is told here.

        Args:
            folder: The version's folder, already verified.
            source: What was read from it.

        Raises:
            SandboxError: The process crashed, took too long or too much memory.
        """
        size = len(source.model) + sum(map(len, source.weights.values()))
        most = _BASE_BYTES + _COPIES * size + self._limits.extra_bytes
        seconds = self._limits.seconds
        question = {"folder": str(folder), "bytes": most, "seconds": max(1, int(seconds))}
        with self._lock:
            verdict = self._ask(json.dumps(question))
        if verdict == _OUT_OF_MEMORY:
            raise SandboxError(f"loading it or running it once took more than {most >> 20} MiB")

    def _ask(self, question: str) -> str:
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
        verdict = process.stdout.readline().strip()
        if not verdict:
            raise self._death(process)
        return verdict

    def _running(self) -> "subprocess.Popen[str]":
        if self._stopped:
            raise SandboxError(_STOPPED)
        if self._process is None:
            self._process = subprocess.Popen(
                _COMMAND,
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


def answer_questions() -> None:
    """Tries what it is told, a line each, until there is no more."""
    from forwardpass.server.loading.examples import example_inputs
    from forwardpass.server.loading.files import read_source
    from forwardpass.server.onnx.session import Session
    from forwardpass.server.onnx.signature import graph_signature

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def verdict_on(folder: Path) -> str:
        try:
            source = read_source(folder, manifest_required=False)
            session = Session(source.model, source.weights, threads=1)
            signature = graph_signature(session.inputs, session.outputs)
            inputs = example_inputs(signature, source.golden)(1)
            session.run(list(signature.outputs), inputs)
        except MemoryError:
            return _OUT_OF_MEMORY
        except Exception as error:  # noqa: BLE001  # the server meets it again and says it
            return _OUT_OF_MEMORY if _is_allocation(error) else _FINE
        return _FINE

    for line in sys.stdin:
        question = json.loads(line)
        resource.setrlimit(resource.RLIMIT_AS, (question["bytes"], resource.RLIM_INFINITY))
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        most = int(used) + 1 + question["seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        sys.stdout.write(verdict_on(Path(question["folder"])) + "\n")
        sys.stdout.flush()


def _is_allocation(error: BaseException | None) -> bool:
    """Whether ONNX Runtime could not get memory; it tells that in words only."""
    while error is not None:
        text = str(error).lower()
        if "bad alloc" in text or "failed to allocate" in text or "bad_alloc" in text:
            return True
        error = error.__cause__
    return False


if __name__ == "__main__":
    answer_questions()
