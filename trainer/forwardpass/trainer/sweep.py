"""A small grid of settings: every point is trained, and the best on validation rows published.

A point is a run like any other, in the folder that the same settings always have. It is trained and
no more, and its checkpoint stays: a sweep that was killed goes on, one with more values trains
those alone, and `forwardpass-train run` with a point's settings publishes it at once.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from forwardpass.trainer.errors import DivergedError, SettingError
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.plots.sweep import sweep_curves
from forwardpass.trainer.recipes import Recipe
from forwardpass.trainer.running import run, train
from forwardpass.trainer.training.checkpoints import is_first_process
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.settings import Settings, parse_settings
from forwardpass.trainer.training.workspace import Workspace

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of settings.

    Attributes:
        varied: What is swept, by name, as it was typed.
        settings: All of the run's.
    """

    varied: Mapping[str, str]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a point.

    Attributes:
        point: The choice.
        fitted: How it did on the validation rows; None where training diverged.
    """

    point: Point
    fitted: Fitted | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What became of all points.

    Attributes:
        outcomes: In the order of the grid.
        best: The one with the greatest validation metric, and of equals the least validation loss.
        picture: A PNG file.
        published: The best one's version; None in a process that helped the first one to train.
    """

    outcomes: Sequence[Outcome]
    best: Outcome
    picture: Path
    published: Published | None


def grid(kind: type[S], pairs: Sequence[str], swept: Sequence[str]) -> list[Point]:
    """Returns every combination of the values, the last key's changing first.

    Args:
        kind: The recipe's settings.
        pairs: Settings of every point, as "key=value".
        swept: As "key=value,value".

    Raises:
        UnknownNameError: A key that the recipe does not have.
        SettingError: A value that it cannot take, a key that is given twice, or `devices`, since
            processes are started once.
    """
    fixed = {pair.partition("=")[0] for pair in pairs}
    choices: dict[str, list[str]] = {}
    for text in swept:
        key, _, values = text.partition("=")
        if key in fixed or key in choices:
            raise SettingError(f"{key} is given twice; list all of its values in one --sweep")
        if key == "devices":
            raise SettingError("devices cannot be swept; give the same number to all points")
        choices[key] = [value.strip() for value in values.split(",")]
        if len(set(choices[key])) < len(choices[key]):
            raise SettingError(f"{text}: a value is there twice")
    points = []
    for values_of in itertools.product(*choices.values()):
        varied = dict(zip(choices, values_of, strict=True))
        more = [f"{key}={value}" for key, value in varied.items()]
        points.append(Point(varied, parse_settings(kind, [*pairs, *more])))
    return points


def sweep(recipe: Recipe, points: Sequence[Point], workspace: Workspace) -> Sweep:
    """Trains every point, and publishes the best; test rows have no part in the choice.

    Leaves a table and a picture in RUNS/<recipe>/sweep-<digest of the points>/.

    Raises:
        SettingError: The recipe has no validation metric to choose by.
        DivergedError: No point's training ended.
        TrainerError: A point failed otherwise, or the best could not be published.
    """
    if not recipe.tunable:
        raise _unmeasured(recipe)
    outcomes = []
    for number, point in enumerate(points, start=1):
        chosen = "  ".join(f"{key}={value}" for key, value in point.varied.items())
        workspace.reporter.note(f"point {number} of {len(points)}: {chosen}")
        outcomes.append(Outcome(point, _train(recipe, point, workspace)))
    ended = [outcome for outcome in outcomes if outcome.fitted is not None]
    if not ended:
        raise DivergedError(
            f"training diverged at each of {len(points)} points; nothing was published. Try "
            "smaller learning rates."
        )
    best = max(ended, key=_rank)
    picture = _keep(recipe.name, outcomes, best, workspace)
    return Sweep(outcomes, best, picture, run(recipe, best.point.settings, workspace))


def _train(recipe: Recipe, point: Point, workspace: Workspace) -> Fitted | None:
    """Returns how the point did; None where its training diverged, which is told."""
    try:
        fitted = train(recipe, point.settings, workspace)
    except DivergedError as error:
        workspace.reporter.note(str(error))
        return None
    if fitted is None:
        raise _unmeasured(recipe)
    return fitted


def _unmeasured(recipe: Recipe) -> SettingError:
    return SettingError(
        f"{recipe.name} measures nothing on validation rows, so no setting of it is best; run it "
        "with one setting after another, and look"
    )


def _rank(outcome: Outcome) -> tuple[float, float]:
    assert outcome.fitted is not None
    return outcome.fitted.score, -outcome.fitted.loss


def _keep(recipe: str, outcomes: Sequence[Outcome], best: Outcome, workspace: Workspace) -> Path:
    """Writes the picture and the table, and returns the picture's path."""
    rows = [row(outcome) for outcome in outcomes]
    texts = [outcome.point.settings.as_text() for outcome in outcomes]
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
    folder = workspace.runs / recipe / f"sweep-{digest}"
    picture = folder / "sweep.png"
    if is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        labels = [_label(outcome) for outcome in outcomes]
        fits = [outcome.fitted for outcome in outcomes]
        picture.write_bytes(sweep_curves(labels, fits, outcomes.index(best)))
    return picture


def row(outcome: Outcome) -> dict[str, str | float]:
    """Returns an outcome as a row of a table; the measures are not there where it diverged."""
    cells: dict[str, str | float] = dict(outcome.point.varied)
    if outcome.fitted is not None:
        cells[f"validation_{outcome.fitted.metric}"] = outcome.fitted.score
        cells["validation_loss"] = outcome.fitted.loss
        cells["best_epoch"] = outcome.fitted.chosen + 1
        cells["epochs"] = len(outcome.fitted.history)
    return cells


def _label(outcome: Outcome) -> str:
    return ", ".join(f"{key}={value}" for key, value in outcome.point.varied.items())
