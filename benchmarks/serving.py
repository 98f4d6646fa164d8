"""Server processes, ours and others: started, pinned to cores, looked at and stopped."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

# What this process may run on. Servers that are compared get the first core, and everything that
# calls them the last.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, CLIENT_CORES = CORES[:1], CORES[-1:]
PROGRAM = (str(Path(sys.executable).with_name("forwardpass-serve")),)


@dataclass(frozen=True)
class Serving:
    """A server process that is ready.

    Attributes:
        process: The process.
        address: Where it answers gRPC, "host:port".
        metrics: Where it answers /metrics and /readyz; empty where it does not.
        seconds_to_ready: From the start of the process.
    """

    process: subprocess.Popen[str]
    address: str
    metrics: str
    seconds_to_ready: float

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drains it and waits for its end."""
        self.process.terminate()
        self.process.communicate()

    def rss_megabytes(self) -> float:
        """Resident memory now, in 10**6 bytes."""
        return self._status("VmRSS")

    def most_rss_megabytes(self) -> float:
        """The most resident memory that it has had, in 10**6 bytes."""
        return self._status("VmHWM")

    def pss_megabytes(self) -> float:
        """The memory of all its processes now, what they share counted once, in 10**6 bytes."""
        kilobytes = 0
        for pid in self._processes():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
            kilobytes += int(line.split()[1])
        return kilobytes * 1024 / 1e6

    def processor_seconds(self) -> float:
        """The processor time of all its processes until now, and of those that have ended."""
        ticks = 0
        for pid in self._processes():
            text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
            # proc(5): utime, stime, cutime and cstime are fields 14 to 17; the name, field 2, may
            # be anything, and ends in the last parenthesis.
            ticks += sum(map(int, text.rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def get(self, path: str) -> str:
        """Returns a page of the port of the metrics.

        Raises:
            OSError: It is not answered within a second, or not with 200.
        """
        with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=1) as response:
            text: str = response.read().decode()
            return text

    def handled(self) -> dict[str, float]:
        """Returns how many calls have ended, by the name of their status."""
        counts: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                if sample.name == "grpc_server_handled_total":
                    code = sample.labels["grpc_code"]
                    counts[code] = counts.get(code, 0) + sample.value
        return counts

    def _processes(self) -> list[int]:
        """Returns the process and its descendants."""
        pids = [self.process.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, children.read_text(encoding="ascii").split())
        return pids

    def check_handled(self) -> None:
        """Looks whether every call has ended well.

        Raises:
            SystemExit: Some have not.
        """
        handled = self.handled()
        if set(handled) != {"OK"}:
            raise SystemExit(f"not every call was answered: {handled}")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024 / 1e6


def pinned(command: Sequence[str], cores: Sequence[int]) -> list[str]:
    """Returns the command that runs a command on given cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def serve(
    models: Path,
    *flags: str,
    cores: Sequence[int] = SERVER_CORES,
    cache: Path | None = None,
    program: Sequence[str] = PROGRAM,
) -> Serving:
    """Starts our server on free ports and waits until it is ready.

    Without a folder for it, nothing is taken from an earlier start.
    """
    # Few flags, as an older or a newer server must know them too: the log is JSON as it is, since
    # it goes to no terminal.
    ports = ("--port", "0", "--metrics-port", "0")
    where = ("--cache-dir", str(cache or "off"))
    return start([*program, str(models), *ports, *where, *flags], cores)


def start(command: Sequence[str], cores: Sequence[int]) -> Serving:
    """Starts a server and waits until a line of its log has the event "ready".

    That line, or one before it, has the address.

    Raises:
        SystemExit: The server does not get ready; the message has what it wrote beside its log.
    """
    if len(CORES) < 2:
        raise SystemExit("the benchmarks take two cores: one for the server, one for its callers")
    started = time.perf_counter()
    process = subprocess.Popen(
        pinned(command, cores),
        stderr=subprocess.PIPE,
        text=True,
    )
    said: dict[str, str] = {}
    beside = ""
    assert process.stderr is not None
    for text in process.stderr:
        try:
            line = json.loads(text)
        except ValueError:
            # Of a wrong flag, or a traceback.
            beside += text
            continue
        said |= {key: line[key] for key in ("address", "metrics") if key in line}
        if line["event"] == "ready" and "worker" not in line:
            seconds = time.perf_counter() - started
            return Serving(process, said["address"], said.get("metrics", ""), seconds)
        if line["event"] == "not_ready" or line.get("level") == "error":
            process.terminate()
            raise SystemExit(f"the server is not ready: {text}")
    process.communicate()
    raise SystemExit(f"the server ended with {process.returncode}\n{beside}")
