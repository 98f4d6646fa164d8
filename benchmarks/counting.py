"""What counting costs: the server as it is, and one whose counters do nothing."""

import sys
from contextlib import ExitStack
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, one_target
from benchmarks.competitor import Competitor, measure_all
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import serve

IN_FLIGHT = (8, 32)
# Of a few per cent less is seen in so many times the rounds that other differences take.
_ROUNDS = 5
UNCOUNTED = (sys.executable, "-m", "benchmarks.peers.uncounted")


def measure(plan: Plan) -> list[Table]:
    """Measures both in turn."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    x = np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)
    with ExitStack() as stack:
        counted = stack.enter_context(serve(plan.scratch))
        uncounted = stack.enter_context(serve(plan.scratch, program=UNCOUNTED))
        pairs = [
            [
                Competitor("", one_target(serving.address, MODEL_INFER, graphs.MLP, x), in_flight)
                for serving in (counted, uncounted)
            ]
            for in_flight in IN_FLIGHT
        ]
        rounds = plan.rounds * _ROUNDS
        measure_all(pairs, rounds)
        counted.check_handled()
        if uncounted.handled():
            raise SystemExit("the server that should not count has counted")
    rows = [
        [
            str(with_counting.in_flight),
            f"{median(with_counting.rates):,.0f}",
            f"{median(without.rates):,.0f}",
            ratio(with_counting.rates, without.rates, 3),
        ]
        for with_counting, without in pairs
    ]
    how = (
        "ModelInfer of one row per second: the server as it is, and with its counting methods "
        "replaced by ones that do nothing (`benchmarks/peers/uncounted.py`). Server on one core, "
        f"h2load on another; median of {rounds} interleaved rounds."
    )
    columns = ["in flight", "counting", "not counting", "counting ÷ not counting"]
    return [Table("What counting costs", how, columns, rows)]
