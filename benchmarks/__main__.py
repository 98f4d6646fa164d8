"""Measures the server and prints tables. `make bench` runs it.

Nothing here passes or fails by the clock: figures are printed, wrong answers are errors.
"""

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks import (
    clients,
    counting,
    embedding,
    jobs,
    latency,
    neighbour,
    overload,
    rates,
    rows,
    servers,
    sizing,
    soak,
    starts,
    workers,
)
from benchmarks.plan import Plan
from benchmarks.report import Failed, Table, machine, show, write
from benchmarks.serving import CLIENT_CORES

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
Measurement: TypeAlias = Callable[[Plan], Sequence[Table | Failed]]
MEASUREMENTS: dict[str, Measurement] = {
    "rates": rates.measure,
    "rows": rows.measure,
    "counting": counting.measure,
    "latency": latency.measure,
    "neighbour": neighbour.measure,
    "embedding": embedding.measure,
    "jobs": jobs.measure,
    "clients": clients.measure,
    "overload": overload.measure,
    "starts": starts.measure,
    "workers": workers.measure,
    "sizing": sizing.measure,
}
# Those that take too long, or install too much, to be measured unasked.
LONG: dict[str, Measurement] = {"soak": soak.measure, "servers": servers.measure}


def main() -> None:
    """Measures, prints, and writes docs/performance.md when everything was asked for.

    Exits with 1 if a measurement failed: the page then says which and why, and has the others.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("models", type=Path, help="the demo's repository")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured")
    parser.add_argument(
        "--only",
        choices=[*MEASUREMENTS, *LONG],
        help=f"measure one, and write no page; {' and '.join(LONG)} are measured this way alone",
    )
    given = parser.parse_args()
    about = machine()
    print(about, flush=True)
    # We call from here, and so does what we start unless it is put elsewhere.
    os.sched_setaffinity(0, CLIENT_CORES)
    parts: list[Table | Failed] = []
    for name in [given.only] if given.only else MEASUREMENTS:
        measured = _measure(name, given.models, given.rounds)
        show(measured)
        parts += measured
    if not given.only:
        write(PAGE, f"`make bench` on {about}", parts)
    if any(isinstance(part, Failed) for part in parts):
        sys.exit(1)


def _measure(name: str, models: Path, rounds: int) -> Sequence[Table | Failed]:
    """Returns what one measurement gives, or that it failed: the others must not be lost by it."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return (MEASUREMENTS | LONG)[name](Plan(models, Path(scratch), rounds))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # told, on the page too
            traceback.print_exc()
            return [Failed(name, f"{type(error).__name__}: {error}")]


if __name__ == "__main__":
    main()
