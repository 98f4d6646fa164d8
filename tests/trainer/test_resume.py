"""Runs that are killed, as by `kill -9`, at chosen moments, and started again."""

import signal
import subprocess
from pathlib import Path

import pytest
from training import QUICK, Publish

from forwardpass.trainer.recipes import RECIPES

from .commands import train

# Has a process end itself by SIGKILL just before or after the n-th checkpoint takes its place, or
# once the draft of the n-th is written.
KILLED = """
import os, signal
moment, count = {moment!r}, {count}
replace, fsync, seen = os.replace, os.fsync, 0

def die(at):
    if at == moment and seen == count:
        os.kill(os.getpid(), signal.SIGKILL)

def killing_replace(source, target):
    global seen
    seen += 1
    die("before")
    replace(source, target)
    die("after")

def killing_fsync(descriptor):
    global seen
    seen += moment == "sync"
    die("sync")
    fsync(descriptor)

os.replace, os.fsync = killing_replace, killing_fsync
"""
# The same after the n-th file that is a checkpoint.
KILLED_AFTER = """
import os, signal
replace, seen = os.replace, 0

def killing_replace(source, target):
    global seen
    replace(source, target)
    seen += str(target).endswith(".checkpoint")
    if seen == {count}:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = killing_replace
"""
# These train nothing, so there is nothing to take up.
UNTRAINED = {"faces-pca", "kernels", "resnet50-imagenet"}
# One for each loop; the others are like these.
LOOPS = {"digits-mlp", "mnist-gan", "transfer", "words"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in LOOPS else pytest.mark.heavy)
        for name in sorted(RECIPES.keys() - UNTRAINED)
    ],
)
def test_a_run_killed_after_a_checkpoint_is_taken_up(
    name: str, publish_once: Publish, models_with_judge: Path, tmp_path: Path, cache: Path
) -> None:
    models = models_with_judge
    uninterrupted = publish_once(name).folder
    before = published(models)
    places = ["--models", str(models), "--runs", str(tmp_path / "runs")]
    command = ["run", name, "--publish", *QUICK[name], *places]

    # Killed after its first checkpoint, then two, four, ... further on, until there are no more.
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        assert published(models) == before
        ended = train(
            tmp_path,
            *command,
            environment={"FORWARDPASS_CACHE": str(cache)},
            before=KILLED_AFTER.format(count=2 ** len(codes)),
        )
        codes.append(ended.returncode)

    assert len(codes) > 1
    assert codes[-1] == 0, ended.stderr
    (resumed,) = (path for path in published(models) - before if path.parent.name == name)
    for file in ("model.onnx", "golden.npz"):
        assert (resumed / file).read_bytes() == (uninterrupted / file).read_bytes()
    assert not list(tmp_path.glob("runs/*/*/*.checkpoint"))


def published(models: Path) -> set[Path]:
    return {path for path in models.glob("*/*") if path.name.isdecimal()}


# Each start gets further: nothing saved; one epoch saved; three saved; all saved, and killed while
# publishing (two syncs an epoch, then the artefact's).
MOMENTS = [("before", 1), ("after", 1), ("before", 3), ("sync", 5)]


def test_a_run_may_be_killed_at_any_moment(
    publish_once: Publish, tmp_path: Path, cache: Path
) -> None:
    name = "digits-mlp"
    uninterrupted = publish_once(name).folder
    command = ["run", name, "--publish", *QUICK[name], "--models", "models", "--runs", "runs"]

    def start(moment: str, count: int) -> subprocess.CompletedProcess[str]:
        return train(
            tmp_path,
            *command,
            environment={"FORWARDPASS_CACHE": str(cache)},
            before=KILLED.format(moment=moment, count=count),
        )

    for moment, count in MOMENTS:
        killed = start(moment, count)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not list(tmp_path.glob(f"models/{name}/[0-9]*"))
    done = start("never", 0)

    assert done.returncode == 0, done.stderr
    assert "resumed after" in done.stderr
    resumed = tmp_path / "models" / name / "1"
    for file in ("model.onnx", "golden.npz"):
        assert (resumed / file).read_bytes() == (uninterrupted / file).read_bytes()
    assert not list(tmp_path.glob("runs/*/*/*.checkpoint"))
    assert not list(tmp_path.glob(f"models/{name}/.tmp-*"))
