"""What every run of a recipe has around it: its key, its folder, and the release of its model.

    load ─► key ─► RUNS/<recipe>/<key>/ ─ train ─► Trained ─ release ─► MODELS/<recipe>/<n>

A run that was killed or stopped, or a point of a sweep, is taken up where settings, data, software
and threads are the same: its checkpoints stay in the folder until its model is published.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from forwardpass.trainer.errors import RecipeError, RunError
from forwardpass.trainer.export.card import Provenance, Trained, software
from forwardpass.trainer.export.published import Published, newest_version
from forwardpass.trainer.export.release import release
from forwardpass.trainer.recipes import Recipe, find_listed
from forwardpass.trainer.training.checkpoints import Run, is_first_process, open_run
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import Settings, fingerprint
from forwardpass.trainer.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Held:
    """What came of a run whose folder is held."""

    run: Run
    trained: Trained
    provenance: Provenance


def run(recipe: Recipe, settings: Settings, workspace: Workspace) -> Published | None:
    """Trains a recipe's model and publishes its next version.

    Returns:
        The version; None in a process that helped the first one to train, which publishes.

    Raises:
        TrainerError: The recipe, its data, or its model cannot be used.
    """
    with _trained(recipe, settings, workspace) as held:
        if not is_first_process():
            return None
        published = _release(recipe, held, workspace)
        held.run.remove_checkpoints()
        return published


def train(recipe: Recipe, settings: Settings, workspace: Workspace) -> Fitted | None:
    """Trains a recipe's model, and no more: test rows are not measured, and the checkpoint stays.

    Returns:
        How it did on validation rows; None where the recipe does not say.

    Raises:
        TrainerError: The recipe or its data cannot be used, or training failed.
    """
    with _trained(recipe, settings, workspace) as held:
        return held.trained.fitted


@contextmanager
def _trained(recipe: Recipe, settings: Settings, workspace: Workspace) -> Iterator[_Held]:
    """Trains within the run's folder, which is held until the caller has done with the model."""
    # An error of a stranger's recipe is told as one, even if it comes from the module's forward.
    with recipe.told():
        settings = settings.resolved()
        names = (*recipe.needs, *settings.needs())
    needed = {name: _needed(name, recipe, settings, workspace) for name in names}
    with recipe.told():
        data = recipe.load(settings, replace(workspace, needed=needed))
        key = fingerprint(recipe.name, settings, data.digest(), software() | recipe.code)
        with open_run(workspace.runs / recipe.name / key, workspace.reporter) as opened:
            # For what `train` draws first, such as initial weights.
            seed_everything(settings.seed, "weights")
            trained = recipe.train(settings, data, opened)
            yield _Held(opened, trained, Provenance(recipe.name, settings, data.source()))


def _release(recipe: Recipe, held: _Held, workspace: Workspace) -> Published:
    """Publishes the model, then what its weights are published as besides; returns the former."""
    settings = held.provenance.settings
    end = "-limited" if settings.limit and workspace.keeps_limited_apart else ""
    model = settings.model_name(recipe.name)
    versions = {model: held.trained}
    versions |= {f"{model}-{part}": also for part, also in held.trained.also.items()}
    published, *_ = [
        release(name + end, trained, recipe.evaluate(trained), held.provenance, workspace)
        for name, trained in versions.items()
    ]
    return published


def _needed(name: str, recipe: Recipe, settings: Settings, workspace: Workspace) -> Path:
    """Returns the newest version of a model that the recipe, or one of its settings, needs.

    If it is not published yet, it is trained first: with the same limit where the recipe needs it,
    and with none where a person has named it.
    """
    folder = newest_version(workspace.models, name)
    if folder is not None:
        return folder
    maker = find_listed(name)
    if maker is None:
        raise RecipeError(
            f"{recipe.origin} needs a model {name!r}, which is not in {workspace.models}, and no "
            "recipe that `forwardpass-train list` has makes it; publish it there first"
        )
    workspace.reporter.note(f"{recipe.name} needs {name}, which is trained first")
    limit = settings.limit if name in recipe.needs else 0
    published = run(maker, maker.settings(limit=limit), workspace)
    if published is None:
        raise RunError(f"several processes need {name}: run it before them, by itself")
    return published.folder
