"""Runs that are killed, as by `kill -9`, at chosen moments, and started again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training import QUICK, Publish

from forwardpass.trainer.recipes import RECIPES

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


# Answers each line, a command of forwardpass-train and the checkpoint after which it is to be
# killed, with how a process of its own ended; what all of them import is imported once.
KILLING = """
import json, os, signal, sys
import forwardpass.trainer.recipes.digits_mlp
from forwardpass.trainer.cli import main

def run(arguments, count):
    replace, seen = os.replace, 0

    def killing_replace(source, target):
        nonlocal seen
        replace(source, target)
        seen += str(target).endswith(".checkpoint")
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = killing_replace
    os.dup2(2, 1)
    sys.argv = ["forwardpass-train", *arguments]
    main()

for line in sys.stdin:
    child = os.fork()
    if not child:
        run(*json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# These train nothing, so there is nothing to take up.
UNTRAINED = {"faces-pca", "kernels", "resnet50-imagenet"}
# One for each loop; the others are like these.
LOOPS = {"digits-mlp", "mnist-gan", "transfer", "words"}

Kill = Callable[[list[str], int], int]


@pytest.fixture(scope="module")
def run_killed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kill]:
    """Runs forwardpass-train, which is killed after so many checkpoints; returns its exit code."""
    with (
        (tmp_path_factory.mktemp("killed") / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", KILLING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"FORWARDPASS_CACHE": str(cache)},
        ) as process,
    ):
        orders, answers = process.stdin, process.stdout
        assert orders
        assert answers

        def run(arguments: list[str], checkpoints: int) -> int:
            orders.write(json.dumps([arguments, checkpoints]) + "\n")
            orders.flush()
            return int(answers.readline())

        yield run
        orders.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in LOOPS else pytest.mark.heavy)
        for name in sorted(RECIPES.keys() - UNTRAINED)
    ],
)
def test_a_run_killed_after_a_checkpoint_is_taken_up(
    name: str, run_killed: Kill, publish_once: Publish, models_with_judge: Path, tmp_path: Path
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
        codes.append(run_killed(command, 2 ** len(codes)))

    assert len(codes) > 1
    assert codes[-1] == 0
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
