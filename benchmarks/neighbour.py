"""What a program that keeps the server's core busy costs calls, by scheduling policy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, one_target
from benchmarks.load import Load, Target, closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Ratio, Table, ratio_of
from benchmarks.serving import SERVER_CORES, pinned, serve

_POLICIES = ("auto", "batch", "other")
_IN_FLIGHT = (1, 8, 32)
# How long one measurement takes, in seconds, and the calls before it, by which the server finds out
# what load it is under, and we how many it answers.
_SECONDS, _BEFORE = 0.75, 300


class _Cell:
    """How one server does at one load.

    Args:
        target: What it is asked.
        in_flight: How many calls at a time.
    """

    def __init__(self, target: Target, in_flight: int) -> None:
        self._target = target
        self._in_flight = in_flight
        self.rates: list[float] = []
        self.p99s: list[float] = []

    def measure(self) -> None:
        """Measures once."""
        before = self._load(_BEFORE)
        load = self._load(max(_BEFORE, round(_SECONDS * before.rate)))
        self.rates.append(load.rate)
        self.p99s.append(float(np.percentile(load.milliseconds, 99)))

    def _load(self, calls: int) -> Load:
        return closed_loop(self._target, self._in_flight, calls)


def measure(plan: Plan) -> list[Table]:
    """Measures every policy at every load in turn, alone on the core and beside a busy loop."""
    graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    x = np.random.default_rng(0).random((1, graphs.WIDTHS[0]), np.float32)
    cells: dict[tuple[int, bool], list[_Cell]] = {}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serve(plan.scratch, "--scheduling-policy", name))
            for name in _POLICIES
        ]
        targets = [one_target(one.address, MODEL_INFER, graphs.MLP, x) for one in servers]
        for number in range(plan.rounds):
            for in_flight in _IN_FLIGHT:
                for beside in (False, True):
                    group = cells.setdefault(
                        (in_flight, beside), [_Cell(target, in_flight) for target in targets]
                    )
                    turn = number % len(group)
                    with _neighbour() if beside else ExitStack():
                        for cell in (*group[turn:], *group[:turn]):
                            cell.measure()
        for one in servers:
            one.check_handled()
    return [_table(cells, plan.rounds)]


@contextmanager
def _neighbour() -> Iterator[None]:
    """Keeps the server's core busy."""
    command = pinned([sys.executable, "-c", "while True: pass"], SERVER_CORES)
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def _table(cells: dict[tuple[int, bool], list[_Cell]], rounds: int) -> Table:
    rows = []
    for (in_flight, beside), group in cells.items():
        told = [f"{median(one.rates):,.0f}, {median(one.p99s):.2f} ms" for one in group]
        where = "beside a busy loop" if beside else "alone"
        rows.append([str(in_flight), where, *told, _to_the_better(group).told(2)])
    how = (
        "ModelInfer of one row a second, and p99, by --scheduling-policy; servers on one core, "
        f"h2load on another, the busy loop on the servers' core; median of {rounds} interleaved "
        "rounds. The last column divides the rate of auto by that of the better of the two others, "
        "with its 95 % bootstrap interval."
    )
    return Table(
        "Beside another program", how, ["in flight", "core", *_POLICIES, "auto ÷ better"], rows
    )


def _to_the_better(group: list[_Cell]) -> Ratio:
    auto, *others = (one.rates for one in group)
    return ratio_of(auto, max(others, key=median))
