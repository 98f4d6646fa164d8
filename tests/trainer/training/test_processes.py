"""One run that two processes share, which start as a person starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from training import MakeWorkspace, run_recipe

from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.recipes.digits_mlp import Settings
from forwardpass.trainer.recipes.mnist_gan import Settings as GanSettings
from forwardpass.trainer.training.fit import make_fabric

# Three batches of 32 rows and one of a single row, which is for one process alone.
QUICK = ["epochs=2", "limit=97", "accelerator=cpu", "dropout=0"]
# By how much sums in another order may change a weight; the greatest is about 0.2.
ROUNDING = 1e-6

# Runs forwardpass-train; the first process kills itself after the first checkpoint, if told so.
MAIN = """
import os, signal, sys
from forwardpass.trainer.cli import main
if os.environ.get("KILLED") and os.environ.get("LOCAL_RANK", "0") == "0":
    replace = os.replace
    def killing_replace(source, target):
        replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = killing_replace
main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(MAIN, encoding="utf-8")
    return path


def train(
    script: Path, *settings: str, under: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Returns once all processes have ended, since they share the pipes."""
    return subprocess.run(
        [sys.executable, *under, str(script), "run", "digits-mlp", *QUICK, *settings, "--publish"],
        cwd=script.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(make_workspace: MakeWorkspace) -> Path:
    """What one process publishes."""
    return run_recipe("digits-mlp", make_workspace(), *QUICK).folder


def weights(folder: Path) -> list[np.ndarray]:
    graph = onnx.load(folder / "model.onnx").graph
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    return [array for array in arrays if array.ndim and array.dtype == np.float32]


def assert_like(folder: Path, alone: Path) -> None:
    ours, theirs = weights(folder), weights(alone)
    assert len(ours) == len(theirs) == 6
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=ROUNDING)


def versions(script: Path) -> list[str]:
    return [path.name for path in script.parent.glob("models/digits-mlp/[0-9]*")]


def test_two_processes_end_with_the_weights_of_one_killed_or_not(script: Path, alone: Path) -> None:
    killed = train(script, "devices=2", KILLED="yes")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert versions(script) == []

    done = train(script, "devices=2")

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed after epoch 1") == 1
    assert done.stderr.count("epoch 2/2") == 1  # told by one of them
    assert versions(script) == ["1"]
    assert_like(script.parent / "models/digits-mlp/1", alone)
    assert [path.name for path in script.parent.glob("runs/*/*/*")] == ["lock"]


def test_torchrun_may_start_them(script: Path, alone: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

    done = train(script, "devices=2", under=torchrun)

    assert done.returncode == 0, done.stderr
    assert versions(script) == ["1"]
    assert_like(script.parent / "models/digits-mlp/1", alone)


def test_a_loss_that_is_no_number_ends_both(script: Path) -> None:
    done = train(script, "devices=2", "learning_rate=1e30")

    assert done.returncode != 0
    assert "error: the loss is nan at step" in done.stderr
    assert versions(script) == []


@pytest.mark.parametrize("settings", [Settings(accelerator="cpu"), GanSettings()])
def test_processes_that_would_each_train_alone_are_refused(
    settings: Settings | GanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(SettingError, match="devices=1, but this is one of 2 processes"):
        make_fabric(settings)
