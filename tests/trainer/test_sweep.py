"""A grid of settings, from which the best on validation rows is published."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training import MakeWorkspace

from forwardpass.artefact import verify_manifest
from forwardpass.pixels import decode_image
from forwardpass.trainer.data import digits
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.errors import DivergedError, SettingError, UnknownNameError
from forwardpass.trainer.recipes import find_recipe
from forwardpass.trainer.recipes.digits_mlp import Settings
from forwardpass.trainer.sweep import Sweep, grid, row, sweep
from forwardpass.trainer.training.workspace import Workspace

from .commands import train

QUICK = ["epochs=3", "limit=120"]
# The first learns next to nothing, and the last is beyond numbers.
RATES = ["learning_rate=1e-6,1e-2,1e30"]


def run_sweep(workspace: Workspace, rates: list[str] = RATES) -> Sweep:
    return sweep(find_recipe("digits-mlp"), grid(Settings, QUICK, rates), workspace)


def accuracy(swept: Sweep) -> float:
    """Of the model that it has published."""
    assert swept.published is not None
    return swept.published.card.metrics["accuracy"]


@pytest.fixture(scope="module")
def swept(make_workspace: MakeWorkspace) -> tuple[Sweep, Workspace]:
    workspace = make_workspace()
    return run_sweep(workspace), workspace


def test_a_grid_has_every_combination_and_what_is_given_to_all() -> None:
    points = grid(Settings, ["epochs=2"], ["learning_rate=1e-3, 1e-2", "batch_size=16,32"])

    assert [tuple(point.varied.values()) for point in points] == [
        ("1e-3", "16"),
        ("1e-3", "32"),
        ("1e-2", "16"),
        ("1e-2", "32"),
    ]
    assert points[2].settings == Settings(epochs=2, learning_rate=1e-2, batch_size=16)


@pytest.mark.parametrize(
    ("swept", "error", "message"),
    [
        ("learning_rte=1,2", UnknownNameError, "did you mean 'learning_rate'"),
        ("learning_rate=1e-3,fast", SettingError, "learning_rate=fast: give a number"),
        ("learning_rate=1e-3,", SettingError, "learning_rate=: give a number"),
        ("learning_rate", SettingError, "learning_rate=: give a number"),
        ("epochs=1,2", SettingError, "epochs is given twice"),
        ("seed=1,2,1", SettingError, "a value is there twice"),
        ("devices=1,2", SettingError, "devices cannot be swept"),
    ],
)
def test_a_grid_that_cannot_be_says_why_before_anything_is_trained(
    swept: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        grid(Settings, ["epochs=1"], [swept])


def test_the_best_on_validation_rows_is_published_and_no_other(
    swept: tuple[Sweep, Workspace],
) -> None:
    made, workspace = swept
    poor, good, diverged = made.outcomes

    assert poor.fitted
    assert good.fitted
    assert diverged.fitted is None
    assert made.best is good
    assert good.fitted.score > poor.fitted.score
    assert made.published is not None
    assert made.published.card.settings["learning_rate"] == "0.01"
    versions = [path for path in workspace.models.glob("*/*") if path.is_dir()]
    assert versions == [made.published.folder]
    verify_manifest(made.published.folder)


def test_its_folder_has_a_table_and_a_picture(swept: tuple[Sweep, Workspace]) -> None:
    made, _ = swept
    rows = json.loads((made.picture.parent / "sweep.json").read_text())

    assert rows == [row(outcome) for outcome in made.outcomes]
    assert rows[1].keys() == {
        "learning_rate",
        "validation_accuracy",
        "validation_loss",
        "best_epoch",
        "epochs",
    }
    assert rows[2] == {"learning_rate": "1e30"}
    assert decode_image(made.picture.read_bytes(), channels=3).std() > 1


def test_points_that_were_trained_are_not_trained_again(swept: tuple[Sweep, Workspace]) -> None:
    _, workspace = swept
    (kept,) = workspace.runs.glob("digits-mlp/*/*.checkpoint")  # the published one's is gone
    before = kept.stat()

    again = run_sweep(workspace, ["learning_rate=1e-6,3e-3"])

    assert again.best.point.varied == {"learning_rate": "3e-3"}
    # It was read, and published from the other point.
    assert kept.stat().st_mtime_ns == before.st_mtime_ns
    assert again.published is not None
    assert again.published.folder.name == "2"


def test_test_rows_have_no_part_in_the_choice(
    swept: tuple[Sweep, Workspace], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = swept
    load = digits.load

    def misleading(*arguments: object) -> Dataset:
        # What is right on these test rows is wrong on all others.
        data = load(*arguments)  # type: ignore[arg-type]
        wrong = Split(data.test.inputs, (data.test.targets + 1) % 10)
        return replace(data, test=wrong)

    monkeypatch.setattr(digits, "load", misleading)
    misled = run_sweep(workspace)

    assert [row(outcome) for outcome in misled.outcomes] == [row(one) for one in made.outcomes]
    assert misled.best.point == made.best.point
    # The test rows did change: they speak against the point that was chosen.
    told, usual = (accuracy(one) for one in (misled, made))
    assert told < usual / 2


def test_where_nothing_can_be_chosen_nothing_is_published(workspace: Workspace) -> None:
    for name in ("mnist-gan", "playground"):
        with pytest.raises(SettingError, match=f"{name} measures nothing on validation rows"):
            sweep(find_recipe(name), [], workspace)
    with pytest.raises(DivergedError, match="at each of 2 points; nothing was published"):
        run_sweep(workspace, ["learning_rate=1e30,1e31"])
    assert not workspace.models.exists()


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    command = ["run", "digits-mlp", *QUICK, "--sweep", "average=0,0.9", "--sweep", "dropout=0,0.5"]
    done = train(tmp_path, *command, "--json")

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [(one["average"], one["dropout"]) for one in facts["sweep"]] == [
        ("0", "0"),
        ("0", "0.5"),
        ("0.9", "0"),
        ("0.9", "0.5"),
    ]
    assert (tmp_path / facts["sweep_picture"]).is_file()
    assert (tmp_path / facts["model"]).is_file()
    scores = [one["validation_accuracy"] for one in facts["sweep"]]
    assert np.isfinite(scores).all()
