"""Fixtures that run real recipes for a few steps; what they publish is shared by a whole session.

torch is imported where it is used, so that tests of the server alone do not wait for it.
"""

import fcntl
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from forwardpass.trainer.export.published import Published
    from forwardpass.trainer.recipes import Recipe
    from forwardpass.trainer.training.workspace import Workspace

EXAMPLES = Path(__file__).parents[1] / "examples"
# 12 circles and 12 crosses in grey.
PICTURES = Path(__file__).parent / "pictures"
# Enough to go through every line of a recipe, not to learn much.
QUICK: dict[str, list[str]] = {
    "kernels": [],
    "regression": ["epochs=1", "few_epochs=1", "limit=40", "few=4"],
    "perceptron": ["epochs=15"],
    "xor": [],
    "playground": ["epochs=5"],
    "digits-mlp": ["epochs=4", "limit=200"],
    "mnist-cnn": ["epochs=2", "limit=512"],
    "mnist-resnet": ["epochs=2", "limit=256"],
    "spam": ["epochs=3", "limit=256", "words=2000", "batch_size=16"],
    "words": ["epochs=2", "limit=128"],
    "fashion-cnn": ["epochs=1", "limit=512"],
    "cifar10-resnet": ["epochs=1", "limit=128", "depth=8"],
    "resnet50-imagenet": ["limit=8"],
    "image-classifier": [
        f"data={PICTURES}",
        "features=none",
        "network=lenet",
        "epochs=3",
        "batch_size=6",
    ],
    "transfer": ["labels=30", "limit=60", "extent=64", "draws=2"],
    "faces-pca": ["components=8", "limit=24"],
    "faces-autoencoder": ["epochs=2", "embedding=8", "limit=24"],
    "sunspots": ["epochs=6"],
    "airline": ["epochs=15"],
    "text": ["epochs=1", "limit=64"],
    "table": [f"data={EXAMPLES / 'penguins.csv'}", "target=species", "epochs=8"],
    "text-classifier": [
        *(f"data={EXAMPLES / 'messages.csv'}", "text=message", "target=kind"),
        *("epochs=12", "batch_size=8"),
    ],
    "forecaster": [
        *(f"data={EXAMPLES / 'sunspots.csv'}", "value=spots", "time=year", "season=11"),
        "epochs=2",
    ],
    "mnist-gan": ["rounds=3", "limit=256", "width=8"],
    "mnist-cgan": ["rounds=3", "limit=256", "width=8"],
    "image-gan": [
        f"data={PICTURES}",
        "size=16",
        "rounds=3",
        "steps=4",
        "width=8",
        "batch_size=8",
    ],
}

MakeWorkspace = Callable[..., "Workspace"]
Publish = Callable[[str], "Published"]


def run_recipe(recipe: "Recipe | str", workspace: "Workspace", *pairs: str) -> "Published":
    """Runs a recipe with settings as they are typed, and returns what it publishes."""
    from forwardpass.trainer.recipes import find_recipe
    from forwardpass.trainer.running import run
    from forwardpass.trainer.training.settings import parse_settings

    if isinstance(recipe, str):
        recipe = find_recipe(recipe)
    published = run(recipe, parse_settings(recipe.settings, pairs), workspace)
    assert published is not None  # as in the first process, which this is
    return published


@pytest.fixture(scope="session")
def cache() -> Path:
    """Fetched data outlives the tests: in CI the folder is kept between runs."""
    default = Path.home() / ".cache" / "forwardpass"
    return Path(os.environ.get("FORWARDPASS_CACHE", default))


@pytest.fixture(scope="session")
def make_workspace(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeWorkspace:
    from rich.console import Console

    from forwardpass.trainer.training.progress import Reporter
    from forwardpass.trainer.training.workspace import Workspace

    def make(**changes: Any) -> Workspace:
        root = tmp_path_factory.mktemp("workspace")
        folders: dict[str, Any] = {
            "models": root / "models",
            "runs": root / "runs",
            "cache": cache,
            "reporter": Reporter(Console(file=io.StringIO())),
        }
        return Workspace(**folders | changes)

    return make


@pytest.fixture
def workspace(make_workspace: MakeWorkspace) -> "Workspace":
    return make_workspace()


@pytest.fixture(scope="session")
def shared(make_workspace: MakeWorkspace, tmp_path_factory: pytest.TempPathFactory) -> "Workspace":
    """One for all processes that share this run of the tests; nothing else is published there."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    (root / "recipes").mkdir(exist_ok=True)
    return make_workspace(models=root / "recipes" / "models", runs=root / "recipes" / "runs")


@pytest.fixture(scope="session")
def publish_once(shared: "Workspace") -> Publish:
    """Runs a recipe quickly, once for all processes: one trains, and others wait for it."""
    from forwardpass.trainer.export.published import find_published, newest_version

    done: dict[str, Published] = {}

    def publish(name: str) -> "Published":
        if name in ("mnist-gan", "mnist-cgan"):
            publish("mnist-cnn")  # their judge
        if name not in done:
            with (shared.models.parent / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if newest_version(shared.models, name) is None:
                    done[name] = run_recipe(name, shared, *QUICK[name])
                else:
                    done[name] = find_published(shared.models, name, None)
                    done[name].card.schema_version = 0  # which only the JSON is stamped with
        return done[name]

    return publish


@pytest.fixture
def models_with_judge(publish_once: Publish, tmp_path: Path) -> Path:
    """A repository of the test's own, in which the generators find their judge."""
    models = tmp_path / "models"
    shutil.copytree(publish_once("mnist-cnn").folder, models / "mnist-cnn" / "1")
    return models
