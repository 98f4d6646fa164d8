"""h2load: calls at a rate that no Python client reaches, with the time of each call.

h2load knows HTTP and not gRPC: a call that fails has status 200 for it. So every answer's bytes are
counted here (a failure has none), and the benchmarks compare a sample of answers by a real client.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forwardpass.wire import Array

# Beyond so many calls in flight, connections have several each.
_MAX_CONNECTIONS = 32
# Connections at a given rate, each of a process of its own: clients of one process send in step.
_OPEN_CONNECTIONS = 4
_MAX_STREAMS = 500
_PATIENCE = 300


@dataclass(frozen=True)
class Target:
    """A request that is sent again and again.

    Attributes:
        address: Of the server.
        path: The method's path.
        message: The request.
        answer_bytes: How long its answer is.
        requests: How often a call sends it, at once; more than one where the call is a stream.
    """

    address: str
    path: str
    message: bytes
    answer_bytes: int
    requests: int = 1


@dataclass(frozen=True)
class Load:
    """What the calls of one run did.

    Attributes:
        rate: Answers per second, between the first tenth of them and the last.
        milliseconds: How long each call took, float64 [calls].
    """

    rate: float
    milliseconds: Array


def closed_loop(target: Target, in_flight: int, calls: int) -> Load:
    """Keeps so many calls in flight until so many are answered."""
    connections = min(in_flight, _MAX_CONNECTIONS)
    streams = in_flight // connections
    shape = ["-c", str(connections), "-m", str(streams), "-n", str(calls)]
    with tempfile.TemporaryDirectory() as folder:
        rows = _finish(_start(target, shape, Path(folder)), target, calls)
        return rate_and_times(rows, target.requests)


def open_loop(target: Target, rate: float, seconds: float, seed: int) -> Load:
    """Sends calls at random moments (a Poisson process), whether or not others are answered."""
    random = np.random.default_rng(seed)
    each = max(1, round(rate * seconds / _OPEN_CONNECTIONS))
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for index in range(_OPEN_CONNECTIONS):
            folder = Path(scratch) / str(index)
            folder.mkdir()
            moments = np.sort(random.uniform(0, 1e3 * seconds, each))
            lines = (f"{ms:.3f}\thttp://{target.address}{target.path}\n" for ms in moments)
            script = folder / "script"
            script.write_text("".join(lines))
            shape = ["-c", "1", "-m", str(_MAX_STREAMS), "--timing-script-file", str(script)]
            runs.append(_start(target, shape, folder))
        return rate_and_times(np.concatenate([_finish(run, target, each) for run in runs]))


@dataclass(frozen=True)
class _Run:
    process: subprocess.Popen[str]
    log: Path


def _start(target: Target, shape: Sequence[str], folder: Path) -> _Run:
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not installed; on Debian: apt-get install nghttp2-client")
    frame = folder / "request.bin"
    # A gRPC message: not compressed, its length, its bytes.
    message = b"\0" + len(target.message).to_bytes(4, "big") + target.message
    frame.write_bytes(message * target.requests)
    log = folder / "log"
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    command = ["h2load", *shape, "-d", str(frame), *headers, "--log-file", str(log)]
    if "--timing-script-file" not in shape:
        command.append(f"http://{target.address}{target.path}")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return _Run(process, log)


def _finish(run: _Run, target: Target, calls: int) -> Array:
    """Returns start, HTTP status and duration of every call, in microseconds, float64 [calls, 3].

    Raises:
        SystemExit: A call has failed.
    """
    told, _ = run.process.communicate(timeout=_PATIENCE)
    rows: Array = np.loadtxt(run.log, ndmin=2)
    data = re.search(r"\((\d+)\) data", told)
    wanted = calls * target.requests * (5 + target.answer_bytes)
    if len(rows) != calls or (rows[:, 1] != 200).any() or not data or int(data[1]) != wanted:
        raise SystemExit(
            f"not all of {calls} calls were answered ({len(rows)} ended; wanted {wanted} bytes "
            f"of answers); h2load said:\n{told}"
        )
    return rows


def rate_and_times(rows: Array, answers: int = 1) -> Load:
    """Returns what the calls of one run did.

    Args:
        rows: Start, HTTP status and duration of every call, in microseconds, float64 [calls, 3].
        answers: How many each call brought.
    """
    ends = np.sort(rows[:, 0] + rows[:, 2])
    first, last = len(ends) // 10, len(ends) - 1 - len(ends) // 10
    rate = 1e6 * answers * (last - first) / (ends[last] - ends[first])
    return Load(float(rate), rows[:, 2] / 1e3)
