"""What a program that keeps the server's core busy costs calls, by scheduling policy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, one_target
from benchmarks.load import Target, closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Ratio, Table, ratio_of
from benchmarks.serving import SERVER_CORES, pinned, serve

_POLICIES = ("auto", "batch", "other")
_IN_FLIGHT = (1, 8, 32)
# How long one measurement takes, in seconds, and the calls before it, by which the server finds out
# what load it is under, and we how many it answers.
_SECONDS, _BEFORE = 0.75, 300


@dataclass
class _Cell:
    """How the servers of one policy do at one load, in each round.

    Attributes:
        rates: Answers per second.
        p99s: How long 99 of 100 calls take at most, in milliseconds.
    """

    rates: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)

    def measure(self, target: Target, in_flight: int) -> None:
        """Measures once."""
        before = closed_loop(target, in_flight, _BEFORE)
        calls = max(_BEFORE, round(_SECONDS * before.rate))
        load = closed_loop(target, in_flight, calls)
        self.rates.append(load.rate)
        self.p99s.append(float(np.percentile(load.milliseconds, 99)))


_Cells = dict[tuple[int, bool], list[_Cell]]


def measure(plan: Plan) -> list[Table]:
    """Measures every policy at every load in turn, alone on the core and beside a busy loop."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    cells: _Cells = {
        (in_flight, beside): [_Cell() for _ in _POLICIES]
        for in_flight in _IN_FLIGHT
        for beside in (False, True)
    }
    for number in range(plan.rounds):
        _measure_round(plan, cells, number)
    return [_table(cells, plan.rounds)]


def _measure_round(plan: Plan, cells: _Cells, number: int) -> None:
    """Measures everything once, with servers of the round's own: one may be faster than another."""
    x = np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve(plan.scratch, "--scheduling-policy", name))
            for name in _POLICIES
        ]
        targets = [one_target(one.address, MODEL_INFER, graphs.MLP, x) for one in servers]
        for (in_flight, beside), group in cells.items():
            pairs = list(zip(group, targets, strict=True))
            turn = number % len(pairs)
            with _neighbour() if beside else ExitStack():
                for cell, target in (*pairs[turn:], *pairs[:turn]):
                    cell.measure(target, in_flight)
        for one in servers:
            one.check_handled()


@contextmanager
def _neighbour() -> Iterator[None]:
    """Keeps the server's core busy."""
    command = pinned([sys.executable, "-c", "while True: pass"], SERVER_CORES)
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def _table(cells: _Cells, rounds: int) -> Table:
    rows = []
    for (in_flight, beside), group in cells.items():
        told = [f"{median(one.rates):,.0f}, {median(one.p99s):.2f} ms" for one in group]
        where = "beside a busy loop" if beside else "alone"
        rows.append([str(in_flight), where, *told, _to_the_better(group).told(2)])
    how = (
        "ModelInfer of one row a second, and p99, by --scheduling-policy; servers on one core, "
        f"h2load on another, the busy loop on the servers' core; median of {rounds} interleaved "
        "rounds, each with servers of its own. The last column divides the rate of auto by that of "
        "the better of the two others, with its 95 % bootstrap interval."
    )
    return Table(
        "Beside another program", how, ["in flight", "core", *_POLICIES, "auto ÷ better"], rows
    )


def _to_the_better(group: list[_Cell]) -> Ratio:
    auto, *others = (one.rates for one in group)
    return ratio_of(auto, max(others, key=median))
