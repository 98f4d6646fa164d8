"""Measures the server and prints tables. `make bench` runs it.

Nothing here passes or fails by the clock: figures are printed, wrong answers are errors.
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks import latency, overload, rates, starts, workers
from benchmarks.plan import Plan
from benchmarks.report import machine, show, write
from benchmarks.serving import CLIENT_CORES

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MEASUREMENTS = {
    "rates": rates.measure,
    "latency": latency.measure,
    "overload": overload.measure,
    "starts": starts.measure,
    "workers": workers.measure,
}


def main() -> None:
    """Measures, prints, and writes docs/performance.md when everything was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("models", type=Path, help="the demo's repository")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured")
    parser.add_argument("--only", choices=MEASUREMENTS, help="measure one; writes no page")
    given = parser.parse_args()
    about = machine()
    # We call from here, and so does what we start unless it is put elsewhere.
    os.sched_setaffinity(0, CLIENT_CORES)
    tables = []
    for name in [given.only] if given.only else MEASUREMENTS:
        with tempfile.TemporaryDirectory() as scratch:
            measured = MEASUREMENTS[name](Plan(given.models, Path(scratch), given.rounds))
        show(measured)
        tables += measured
    if not given.only:
        write(PAGE, f"`make bench` on {about}", tables)


if __name__ == "__main__":
    main()
