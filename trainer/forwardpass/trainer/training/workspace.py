"""The folders that a recipe works in, and where it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        keeps_limited_apart: Whether a model that was trained with a limit is published as
            <name>-limited, and not as the next version of the model that learned from all rows.
        needed: The folder of a version of each model that the recipe needs, by the model's name.
    """

    models: Path
    runs: Path
    cache: Path
    reporter: Reporter
    keeps_limited_apart: bool = False
    needed: Mapping[str, Path] = field(default_factory=dict)
