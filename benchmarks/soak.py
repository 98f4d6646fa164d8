"""Whether the server's memory grows with the calls that it answers."""

from itertools import pairwise

import numpy as np

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, one_target
from benchmarks.load import closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import serve

CALLS, STEP = 1_000_000, 100_000
# Until then caches and the allocator's heaps fill up.
SETTLED = 200_000
_IN_FLIGHT = 32


def measure(plan: Plan) -> list[Table]:
    """Reads the server's memory after each step; rounds do not matter here."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    with serve(plan.scratch) as serving:
        x = np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)
        target = one_target(serving.address, MODEL_INFER, graphs.MLP, x)
        readings = {0: serving.rss_megabytes()}
        for calls in range(STEP, CALLS + 1, STEP):
            closed_loop(target, _IN_FLIGHT, STEP)
            readings[calls] = serving.rss_megabytes()
        serving.check_handled()
    return [_table(readings)]


def _table(readings: dict[int, float]) -> Table:
    settled = [megabytes for calls, megabytes in readings.items() if calls >= SETTLED]
    steps = [after - before for before, after in pairwise(settled)]
    rows = [[f"{calls:,}", f"{megabytes:.1f} MB"] for calls, megabytes in readings.items()]
    rows += [
        [f"growth after {SETTLED:,}", f"{settled[-1] - settled[0]:+.1f} MB"],
        ["of that in one step", f"{min(steps):+.1f} MB to {max(steps):+.1f} MB"],
    ]
    how = (
        f"Resident memory after so many ModelInfer calls of one row, {_IN_FLIGHT} in flight. "
        "Server on one core, h2load on another."
    )
    return Table("Memory over a million calls", how, ["calls", "resident memory"], rows)
