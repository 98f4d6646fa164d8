"""Tries a new graph in a process of its own, so that one that kills its process kills no server.

ONNX Runtime is native code that reads what somebody else made. The first load of a version happens
here, under limits of memory and time; only a graph that survives loading and one run goes on to the
server's own process. Run as a module, this is that process.
"""

import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from forwardpass.server.runtime.source import Source

_COMMAND = [sys.executable, "-m", "forwardpass.server.runtime.canary"]
_OUT_OF_MEMORY = 3
# What a Python with ONNX Runtime and an empty graph reserves of its address space.
_BASE_BYTES = 4 << 30
# A graph holds its weights, a copy that is optimised, and what it computes.
_COPIES = 6


class CanaryError(Exception):
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


def try_in_canary(folder: Path, source: Source, limits: Limits) -> None:
    """Loads a version's graph and runs it once, in a process of its own.

    What merely fails there fails again, with its reason, in the server: only what would have
    killed the process is told here.

    Args:
        folder: The version's folder, already verified.
        source: What was read from it.
        limits: What it may use.

    Raises:
        CanaryError: The process crashed, took too long or too much memory.
    """
    size = len(source.model) + sum(map(len, source.weights.values()))
    most = _BASE_BYTES + _COPIES * size + limits.extra_bytes
    arguments = [str(folder), str(most), str(max(1, int(limits.seconds)))]
    try:
        finished = subprocess.run(
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CanaryError(
            f"loading it and running it once took more than {limits.seconds:g} s"
        ) from None
    if finished.returncode == _OUT_OF_MEMORY:
        raise CanaryError(f"loading it or running it once took more than {most >> 20} MiB")
    if finished.returncode == -signal.SIGXCPU:
        raise CanaryError(f"it took more than {limits.seconds:g} s of processor time")
    if finished.returncode < 0:
        name = signal.Signals(-finished.returncode).name
        raise CanaryError(f"loading it or running it once crashed with {name}")


def main(folder: str, most_bytes: str, most_seconds: str) -> int:
    """Loads and runs the graph under the limits; returns the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (int(most_bytes), int(most_bytes)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(most_seconds), int(most_seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from forwardpass.server.runtime.curve import example_inputs
    from forwardpass.server.runtime.session import Session
    from forwardpass.server.runtime.signature import graph_signature
    from forwardpass.server.runtime.source import read_source

    try:
        source = read_source(Path(folder), manifest_required=False)
        session = Session(source.model, source.weights, threads=1)
        signature = graph_signature(session.inputs, session.outputs)
        inputs = example_inputs(signature, source.golden)(1)
        session.run(list(signature.outputs), inputs)
    except MemoryError:
        return _OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001  # the server meets it again and says it
        return _OUT_OF_MEMORY if _is_allocation(error) else 0
    return 0


def _is_allocation(error: BaseException | None) -> bool:
    """Whether ONNX Runtime could not get memory; it tells that in words only."""
    while error is not None:
        text = str(error).lower()
        if "bad alloc" in text or "failed to allocate" in text or "bad_alloc" in text:
            return True
        error = error.__cause__
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
