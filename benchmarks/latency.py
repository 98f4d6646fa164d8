"""How long a call takes at rates below the peak."""

from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, one_target
from benchmarks.load import Load, closed_loop, open_loop
from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import serve

SHARES = (0.5, 0.8)
_IN_FLIGHT = 32
_SECONDS = 2.0
_TRIAL = 500


def measure(plan: Plan) -> list[Table]:
    """Measures the peak, then sends at shares of it, in turn."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    with serve(plan.scratch) as serving:
        x = np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)
        target = one_target(serving.address, MODEL_INFER, graphs.MLP, x)
        calls = round(_SECONDS * closed_loop(target, _IN_FLIGHT, _TRIAL).rate)
        peak = median(closed_loop(target, _IN_FLIGHT, calls).rate for _ in range(plan.rounds))
        loads: dict[float, list[Load]] = {share: [] for share in SHARES}
        for seed in range(plan.rounds):
            for share in SHARES:
                loads[share].append(open_loop(target, share * peak, _SECONDS, seed))
        serving.check_handled()
    rows = []
    for share in SHARES:
        taken = np.concatenate([load.milliseconds for load in loads[share]])
        p50, p99, p999 = np.percentile(taken, [50, 99, 99.9])
        marks = [f"{ms:.2f} ms" for ms in (p50, p99, p999)]
        rows.append(
            [f"{share:.0%}", f"{share * peak:,.0f}", *marks, f"{p99 / p50:.1f}", f"{len(taken):,}"]
        )
    how = (
        f"ModelInfer of one row at shares of our own peak of {peak:,.0f}/s ({_IN_FLIGHT} in "
        "flight), at random moments, whether or not earlier calls are answered. Server on one "
        "core, h2load on another."
    )
    columns = ["share of the peak", "calls per second", "p50", "p99", "p99.9", "p99 ÷ p50", "calls"]
    return [Table("Latency", how, columns, rows)]
