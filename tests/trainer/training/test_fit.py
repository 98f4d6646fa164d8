"""The loop on a problem of its own: small enough to train in a blink."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.errors import DivergedError, RunError, SettingError
from forwardpass.trainer.models.mlp import mlp
from forwardpass.trainer.training.checkpoints import Run, open_run
from forwardpass.trainer.training.fit import Rows, Task, fit, make_fabric
from forwardpass.trainer.training.schedules import SCHEDULES, one_cycle
from forwardpass.trainer.training.seeds import derive, generator, seed_everything
from forwardpass.trainer.training.settings import Settings
from forwardpass.trainer.training.workspace import Workspace

SETTINGS = Settings(accelerator="cpu")


def make_task(**changes: Any) -> Task:
    draws = generator(0, "data")
    points = torch.randn((600, 2), generator=draws)
    classes = (points.prod(dim=1) > 0).long()
    seed_everything(0, "weights")
    model = mlp([2, 16, 2])
    values: dict[str, Any] = {
        "model": model,
        "train": Rows(points[:500], classes[:500]),
        "validation": Rows(points[500:], classes[500:]),
        "loss": nn.functional.cross_entropy,
        "metric": MulticlassAccuracy(2, average="micro"),
        "metric_name": "accuracy",
        "optimizer": torch.optim.Adam(model.parameters(), 0.02),
        "epochs": 5,
        "batch_size": 32,
    }
    return Task(**values | changes)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_it_learns_and_keeps_the_best_epochs_weights(
    average: float, tmp_path: Path, workspace: Workspace
) -> None:
    task = make_task(average=average)

    history = fit(task, SETTINGS, Run(tmp_path, workspace.reporter)).history

    best = max(epoch["validation_accuracy"] for epoch in history)
    assert best > 0.9
    predicted = task.model(task.validation.inputs).argmax(dim=1)
    assert (predicted == task.validation.targets).float().mean().item() == pytest.approx(best)
    assert not task.model.training


def test_it_keeps_the_last_epochs_weights_where_none_are_to_be_chosen(
    tmp_path: Path, workspace: Workspace
) -> None:
    # Every step but the first epoch's makes it worse.
    task = make_task(keep_last=True, schedule=lambda done: 1.0 if done < 0.2 else -5.0)

    history = fit(task, SETTINGS, Run(tmp_path, workspace.reporter)).history

    predicted = task.model(task.validation.inputs).argmax(dim=1)
    last = (predicted == task.validation.targets).float().mean().item()
    assert last == pytest.approx(history[-1]["validation_accuracy"])
    assert last < max(epoch["validation_accuracy"] for epoch in history)


def test_it_stops_when_nothing_gets_better(tmp_path: Path, workspace: Workspace) -> None:
    task = make_task(epochs=50, patience=2, schedule=lambda done: 1.0 if done < 0.06 else 0.0)

    history = fit(task, SETTINGS, Run(tmp_path, workspace.reporter)).history

    # Three epochs at a rate above 0, then two of the same weights.
    assert len(history) == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_where(
    bad: float, tmp_path: Path, workspace: Workspace
) -> None:
    task = make_task()
    task.train.inputs[7] = bad

    with pytest.raises(DivergedError, match=r"step \d+ of epoch 1, with a learning rate of 0.02"):
        fit(task, SETTINGS, Run(tmp_path, workspace.reporter))
    assert not list(tmp_path.iterdir())


def test_a_row_alone_in_front_of_batch_normalisation_is_told(
    tmp_path: Path, workspace: Workspace
) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    # 500 rows in steps of 499: the last has one.
    task = make_task(model=model, optimizer=optimizer, batch_size=499)
    with pytest.raises(SettingError, match=r"a step has 1 row, .* choose another batch_size"):
        fit(task, SETTINGS, Run(tmp_path, workspace.reporter))


def test_weights_that_the_last_step_ruined_are_noticed(
    tmp_path: Path, workspace: Workspace
) -> None:
    model = mlp([2, 16, 2])
    ruinous = torch.optim.SGD(model.parameters(), 1e30)
    task = make_task(model=model, optimizer=ruinous, epochs=1, batch_size=500)

    with pytest.raises(DivergedError, match="on validation after epoch 1"):
        fit(task, SETTINGS, Run(tmp_path, workspace.reporter))


def test_a_checkpoint_of_another_model_is_refused_with_its_folder(
    tmp_path: Path, workspace: Workspace
) -> None:
    fit(make_task(epochs=1), SETTINGS, Run(tmp_path, workspace.reporter))
    model = mlp([2, 8, 2])
    other = make_task(model=model, optimizer=torch.optim.Adam(model.parameters()))

    with pytest.raises(RunError, match=f"Delete {tmp_path}"):
        fit(other, SETTINGS, Run(tmp_path, workspace.reporter))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "fit.checkpoint").write_bytes(b"half a file")

    with pytest.raises(RunError, match="damaged"):
        fit(make_task(), SETTINGS, Run(tmp_path, workspace.reporter))


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path, workspace: Workspace) -> None:
    with (
        open_run(tmp_path, workspace.reporter),
        pytest.raises(RunError, match="another process"),
        open_run(tmp_path, workspace.reporter),
    ):
        pass


def test_checkpoints_stay_until_they_are_removed(tmp_path: Path, workspace: Workspace) -> None:
    with open_run(tmp_path, workspace.reporter) as run:
        fit(make_task(epochs=1), SETTINGS, run)
    assert (tmp_path / "fit.checkpoint").exists()
    with open_run(tmp_path, workspace.reporter) as run:
        run.remove_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_cycle_rises_and_falls() -> None:
    factors = [one_cycle(done / 100) for done in range(100)]

    assert factors[0] == pytest.approx(0.01)
    assert max(factors) == factors[20] == 1
    assert factors[:20] == sorted(factors[:20])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] < 0.02


def test_schedules_fall_from_the_rate_as_their_names_say() -> None:
    factors = {name: [of(done / 100) for done in range(100)] for name, of in SCHEDULES.items()}

    assert factors["constant"] == [1] * 100
    assert factors["cosine"] == sorted(factors["cosine"], reverse=True)
    assert factors["cosine"][::50] == pytest.approx([1, 0.5])
    assert factors["cosine"][-1] < 0.001
    assert factors["step"] == pytest.approx([1] * 50 + [0.1] * 25 + [0.01] * 25)
    assert factors["one-cycle"][20] == 1


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {derive(0), derive(1), derive(0, "order", 1), derive(0, "order", 2), derive(0, "a", 1)}

    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path, workspace: Workspace) -> None:
    # A folder stands where the checkpoint should go.
    (tmp_path / "fit.checkpoint" / "in the way").mkdir(parents=True)
    fabric = make_fabric(SETTINGS)

    with pytest.raises(RunError, match="could not be written: Is a directory"):
        Run(tmp_path, workspace.reporter).save(fabric, "fit", {"history": []})
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]
