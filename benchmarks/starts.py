"""How long the server takes to be ready, and what memory it holds then."""

import statistics
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.report import Table
from benchmarks.serving import CORES, serve


def measure(plan: Plan) -> list[Table]:
    """Starts the server on the demo's models, on all cores: without what an earlier start kept, and
    with it.
    """
    starts: dict[str, list[tuple[float, float, float]]] = {"cold": [], "warm": []}
    for number in range(plan.rounds):
        cache = plan.scratch / str(number)
        starts["cold"].append(_start(plan.models, cache))
        starts["warm"].append(_start(plan.models, cache))
    count = sum(path.is_dir() for path in plan.models.iterdir())
    medians = {
        name: [statistics.median(figures) for figures in zip(*measured, strict=True)]
        for name, measured in starts.items()
    }
    whats = (
        ("from the start of the process to ready", "{:.2f} s"),
        ("processor time until then", "{:.2f} s"),
        ("resident memory then", "{:.0f} MB"),
    )
    return [
        Table(
            "Starts",
            f"The demo's {count} models on {len(CORES)} cores; medians of {plan.rounds} "
            "starts each: with an empty `cache_dir` (cold), then with what that left there (warm).",
            ["what", *medians],
            [
                [what, *(form.format(figures[row]) for figures in medians.values())]
                for row, (what, form) in enumerate(whats)
            ],
        )
    ]


def _start(models: Path, cache: Path) -> tuple[float, float, float]:
    """Returns seconds to ready, seconds of processor time and megabytes of one start."""
    with serve(models, cores=CORES, cache=cache) as serving:
        memory = serving.rss_megabytes()
        return serving.seconds_to_ready, serving.processor_seconds(), memory
