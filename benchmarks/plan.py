"""What every measurement is given."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """How much to measure, and on what.

    Attributes:
        models: The demo's repository.
        scratch: An empty folder, for repositories of one's own.
        rounds: How often everything is measured; what is compared is measured in turn.
    """

    models: Path
    scratch: Path
    rounds: int
