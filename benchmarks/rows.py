"""How much of ONNX Runtime's row rate is left behind the server, where a call brings 64 rows."""

from contextlib import ExitStack
from statistics import median

import numpy as np

from benchmarks import graphs
from benchmarks.bare import Bare, answers
from benchmarks.calls import MODEL_INFER, check_answers, one_target
from benchmarks.competitor import Competitor, measure_round
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import CORES, SERVER_CORES, serve

ROWS = 64
IN_FLIGHT = (8, 32)
_SECONDS, _TRIAL = 1.0, 200
_PLACES = {"one core": SERVER_CORES, "two cores": CORES}


def measure(plan: Plan) -> list[Table]:
    """Compares the server on one core, and on two, with ONNX Runtime alone on one."""
    file = graphs.write(plan.scratch, graphs.MLP, graphs.mlp())
    x = np.random.default_rng(0).random((ROWS, graphs.WIDTHS[0]), np.float32)
    right = answers(file, "x", [x], "y")
    array = plan.scratch / "x.npy"
    np.save(array, x)
    with ExitStack() as stack:
        bare = stack.enter_context(Bare(file, "x", array, "y"))
        servings = {
            # A run has one thread on either, as alone.
            place: stack.enter_context(serve(plan.scratch, "--threads", "1", cores=cores))
            for place, cores in _PLACES.items()
        }
        competitors = []
        for place, serving in servings.items():
            check_answers(serving.address, MODEL_INFER, graphs.MLP, [x], right)
            target = one_target(serving.address, MODEL_INFER, graphs.MLP, x)
            competitors += [Competitor(place, target, in_flight) for in_flight in IN_FLIGHT]
        for one in competitors:
            one.calibrate()
        bare.seconds(_TRIAL)
        runs = round(_SECONDS * _TRIAL / bare.seconds(_TRIAL))
        alone = []
        for number in range(plan.rounds):
            alone.append(ROWS * runs / bare.seconds(runs))
            measure_round(number, competitors)
        for serving in servings.values():
            serving.check_handled()
    return [_table(competitors, alone, plan.rounds)]


def _table(competitors: list[Competitor], alone: list[float], rounds: int) -> Table:
    rows = [["alone", "one core", "", f"{median(alone):,.0f}", ""]]
    for one in competitors:
        rates = [ROWS * rate for rate in one.rates]
        told = f"{median(rates):,.0f}"
        rows.append(["ModelInfer", one.name, str(one.in_flight), told, ratio(rates, alone)])
    how = (
        f"The MLP of the rates, {ROWS} rows a call or run, one thread a run. Alone is a loop "
        "around ONNX Runtime with the server's session options in a process of its own. On one "
        "core the server has all its threads on that core, and h2load has the other; on two, "
        "transport and runs may go side by side, and h2load shares the second. "
        f"Median of {rounds} interleaved rounds."
    )
    columns = ["what", "where", "in flight", "rows per second", "÷ alone"]
    return Table("Rows per second", how, columns, rows)
