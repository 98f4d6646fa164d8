"""Measures the server with the demo's models and prints a table. Run by `make bench`.

Nothing here passes or fails by the clock: figures are printed, wrong answers are errors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from forwardpass.artefact import GOLDEN_FILE, load_golden, within
from forwardpass.client import Client
from forwardpass.v1 import model_card_pb2

STARTS = 5
CALLS = 2_000
IN_FLIGHT = 8


@dataclass(frozen=True)
class Serving:
    """A server process that is ready."""

    process: subprocess.Popen[str]
    address: str
    seconds_to_ready: float

    def rss_megabytes(self) -> float:
        """Resident memory, in 10**6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024 / 1e6

    def close(self) -> None:
        """Drains it and waits for its end."""
        self.process.terminate()
        self.process.communicate()


def serve(models: Path) -> Serving:
    """Starts a server on free ports and waits until its log says that it is ready."""
    command = ["forwardpass-serve", str(models), "--port", "0", "--metrics-port", "0"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:], "--log-format", "json"],
        stderr=subprocess.PIPE,
        text=True,
    )
    address = ""
    assert process.stderr is not None
    for text in process.stderr:
        line = json.loads(text)
        if line["event"] == "listening":
            address = line["address"]
        elif line["event"] == "ready":
            return Serving(process, address, time.perf_counter() - started)
        elif line["level"] == "error":
            raise SystemExit(f"the server is not ready: {line}")
    raise SystemExit(f"the server ended with {process.wait()}")


def rate(call: Callable[[], object], in_flight: int) -> tuple[float, float, float]:
    """Makes CALLS calls; returns calls per second, and the median and 99th percentile in ms."""

    def timed(_: int) -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(timed, range(100)))
        before = time.perf_counter()
        times = sorted(pool.map(timed, range(CALLS)))
        total = time.perf_counter() - before
    return CALLS / total, 1e3 * statistics.median(times), 1e3 * times[int(0.99 * CALLS)]


def measure_starts(models: Path, table: Table) -> None:
    """Adds how long the server takes to be ready, and what it holds then."""
    seconds, memory = [], []
    for _ in range(STARTS):
        with closing(serve(models)) as serving:
            seconds.append(serving.seconds_to_ready)
            memory.append(serving.rss_megabytes())
    count = len([path for path in models.iterdir() if path.is_dir()])
    what = f"{count} models, median of {STARTS} starts"
    table.add_row("start to ready", f"{statistics.median(seconds):.2f} s", what)
    table.add_row("RSS when ready", f"{statistics.median(memory):.0f} MB", what)


def measure_predict(models: Path, model: str, table: Table) -> None:
    """Adds the rate of single-row Predict calls, after checking the answers."""
    numbers = [int(path.name) for path in (models / model).iterdir() if path.name.isdecimal()]
    folder = models / model / str(max(numbers))
    golden = load_golden(folder / GOLDEN_FILE)
    tolerance = model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5)
    row = {name: array[:1] for name, array in golden.inputs.items()}
    with closing(serve(models)) as serving, Client(serving.address) as client:
        outputs = client.predict(model, golden.inputs).outputs
        for name, reference in golden.outputs.items():
            if not within(np.asarray(outputs[name]), reference, tolerance):
                raise SystemExit(f"{model} answers wrongly: {name}")
        for in_flight in (1, IN_FLIGHT):
            calls, median, tail = rate(lambda: client.predict(model, row), in_flight)
            what = f"{in_flight} in flight, our Python client on the same cores"
            table.add_row(
                f"{model} Predict, 1 row",
                f"{calls:,.0f}/s, p50 {median:.2f} ms, p99 {tail:.2f} ms",
                what,
            )
        table.add_row("RSS after these calls", f"{serving.rss_megabytes():.0f} MB", "")


def main() -> None:
    """Measures, and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="the demo's repository")
    models = parser.parse_args().models
    table = Table("what", "figure", "how")
    measure_starts(models, table)
    measure_predict(models, "digits-mlp", table)
    Console().print(table)


if __name__ == "__main__":
    main()
