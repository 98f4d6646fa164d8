"""The folders that a recipe works in, and where it reports."""

from dataclasses import dataclass
from pathlib import Path

from forwardpass.trainer.training.progress import Reporter


@dataclass(frozen=True, slots=True)
class Workspace:
    """Given to a recipe by whoever runs it.

    Attributes:
        models: The repository that artefacts are published in, as MODELS/<name>/<version>/.
        runs: Checkpoints and pictures of runs, as RUNS/<recipe>/<fingerprint>/.
        cache: Data that was fetched.
        reporter: Where progress is told.
        publishes: False where a run is to be trained, and no more: one of a sweep, or one of the
            processes that share a run but for the first.
        keeps_limited_apart: Whether a model that was trained with a limit is published as
            <name>-limited, and not as the next version of the model that learned from all rows.
        recipe: The name of the recipe that works here, which alone it may publish by; empty for
            any.
    """

    models: Path
    runs: Path
    cache: Path
    reporter: Reporter
    publishes: bool = True
    keeps_limited_apart: bool = False
    recipe: str = ""
