"""What a call costs two workers beside one, and the memory that they take."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from benchmarks import graphs
from benchmarks.calls import MODEL_INFER, check_answers, one_target
from benchmarks.load import Target, closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import CORES, SERVER_CORES, Serving, serve

# As many connections as h2load opens, two calls each: every worker gets its share of them.
_IN_FLIGHT = 64
_SECONDS, _TRIAL = 2.0, 1_000


@dataclass
class Competitor:
    """A server, and what each round found.

    Attributes:
        serving: The server.
        target: What it is asked.
        rates: Answers per second.
        costs: Answers per second of its processor time.
        memory: Of its processes, in 10**6 bytes.
    """

    serving: Serving
    target: Target
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def measure(self, calls: int) -> None:
        """Makes so many calls."""
        before = self.serving.processor_seconds()
        self.rates.append(closed_loop(self.target, _IN_FLIGHT, calls).rate)
        self.costs.append(calls / (self.serving.processor_seconds() - before))
        self.memory.append(self.serving.pss_megabytes())


def measure(plan: Plan) -> list[Table]:
    """Compares them in turn; each worker has a core."""
    file = graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    with (
        serve(plan.scratch, cores=SERVER_CORES) as alone,
        serve(plan.scratch, "--workers", "2", cores=CORES) as shared,
    ):
        one, two = _competitor(alone, file), _competitor(shared, file)
        calls = round(_SECONDS * closed_loop(one.target, _IN_FLIGHT, _TRIAL).rate)
        for number in range(plan.rounds):
            # Neither is always the first.
            for competitor in (two, one) if number % 2 else (one, two):
                competitor.measure(calls)
        for serving in (alone, shared):
            if set(handled := serving.handled()) != {"OK"}:
                raise SystemExit(f"not every call was answered: {handled}")
    return [_table(one, two, calls, plan.rounds)]


def _competitor(serving: Serving, file: Path) -> Competitor:
    random = np.random.default_rng(0)
    questions = random.random((20, 1, graphs.WIDTHS[0]), np.float32)
    session = ort.InferenceSession(file)
    right = [session.run(None, {"x": x})[0] for x in questions]
    check_answers(serving.address, MODEL_INFER, graphs.MLP, questions, right)
    return Competitor(serving, one_target(serving.address, MODEL_INFER, graphs.MLP, questions[0]))


def _table(one: Competitor, two: Competitor, calls: int, rounds: int) -> Table:
    how = (
        f"ModelInfer of one row of the MLP, {_IN_FLIGHT} in flight over half as many connections; "
        f"{rounds} interleaved rounds of {calls:,} calls, medians, and of the ratios the 95 % "
        f"bootstrap interval. One worker on one core; two on {len(CORES)}, the last of which they "
        "share with h2load, so it is the cost that tells. Processor time and memory (PSS) are of "
        "all processes, the supervisor among them."
    )
    rows = [
        ["calls per second", *_figures(two.rates, one.rates, ",.0f")],
        ["calls per second of processor time", *_figures(two.costs, one.costs, ",.0f")],
        ["memory, MB", *_figures(two.memory, one.memory, ".0f")],
    ]
    return Table("Workers", how, ["what", "one worker", "two workers", "two ÷ one"], rows)


def _figures(two: list[float], one: list[float], form: str) -> list[str]:
    return [format(median(one), form), format(median(two), form), ratio(two, one)]
