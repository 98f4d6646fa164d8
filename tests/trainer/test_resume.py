"""Runs that are killed, as by `kill -9`, at chosen moments, and started again."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training import QUICK

from forwardpass.trainer.export.release import Published

# Runs forwardpass-train, and ends itself by SIGKILL just before or after the n-th checkpoint
# takes its place, or once the draft of the n-th is written.
KILLED = """
import os, signal, sys
moment, count = sys.argv[1], int(sys.argv[2])
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
from forwardpass.trainer.cli import main
sys.argv = ["forwardpass-train", *sys.argv[3:]]
main()
"""


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        # Each start gets further: nothing saved; one epoch saved; three saved; all saved, and
        # killed while publishing (two syncs an epoch, then the artefact's).
        ("digits-mlp", [("before", 1), ("after", 1), ("before", 3), ("sync", 5)]),
        ("mnist-gan", [("after", 2)]),
        ("words", [("after", 1)]),
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(
    name: str,
    moments: list[tuple[str, int]],
    publish_once: Callable[[str], Published],
    tmp_path: Path,
    cache: Path,
) -> None:
    uninterrupted = publish_once(name).folder
    if name == "mnist-gan":
        shutil.copytree(publish_once("mnist-cnn").folder, tmp_path / "models/mnist-cnn/1")
    command = ["run", name, *QUICK[name], "--models", "models", "--runs", "runs"]
    environment = os.environ | {"FORWARDPASS_CACHE": str(cache)}

    def start(moment: str, count: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED, moment, str(count), *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    for moment, count in moments:
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
