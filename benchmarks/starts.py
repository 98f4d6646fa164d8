"""How long the server takes to be ready, and what memory it holds then."""

import statistics

from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import CORES, serve


def measure(plan: Plan) -> list[Table]:
    """Starts the server on the demo's models, on all cores."""
    seconds, memory = [], []
    for _ in range(plan.rounds):
        with serve(plan.models, cores=CORES) as serving:
            seconds.append(serving.seconds_to_ready)
            memory.append(serving.rss_megabytes())
    count = sum(path.is_dir() for path in plan.models.iterdir())
    return [
        Table(
            "Starts",
            f"The demo's {count} models on {len(CORES)} cores; median of {plan.rounds} starts.",
            ["what", "figure"],
            [
                ["from the start of the process to ready", f"{statistics.median(seconds):.2f} s"],
                ["resident memory then", f"{statistics.median(memory):.0f} MB"],
            ],
        )
    ]
