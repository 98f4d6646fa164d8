import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from forwardpass.pixels import decode_image
from forwardpass.trainer.data import airline, digits, mnist, moby_dick, sunspots
from forwardpass.trainer.data.augment import jitter
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.pictures import write_pictures
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.workspace import Workspace

NOT_THERE = Package("pypi", "forwardpass-no-such-data==0", "none.whl", "0" * 64)


def test_digits_have_equal_shares_of_each_class_and_full_range_pixels(
    workspace: Workspace,
) -> None:
    data = digits.load(workspace.cache, workspace.reporter)

    assert (len(data.train), len(data.validation), len(data.test)) == (1257, 180, 360)
    assert data.test.inputs.shape == (360, 8, 8, 1)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 255)
    shares = np.bincount(data.test.targets) / 360
    assert abs(shares - 0.1).max() < 0.01


def test_mnist_is_whole(workspace: Workspace) -> None:
    data = mnist.load(workspace.cache, workspace.reporter)

    assert data.train.inputs.shape == (55_000, 28, 28, 1)
    assert data.train.inputs.dtype == np.uint8
    assert (len(data.validation), len(data.test)) == (5_000, 10_000)
    assert abs(data.train.inputs.mean() / 255 - mnist.MEAN) < 1e-4
    assert abs(data.train.inputs.std() / 255 - mnist.DEVIATION) < 1e-4


def test_series_are_whole_and_what_is_measured_on_is_not_learned_from(
    workspace: Workspace,
) -> None:
    for source, count, first, last in ((sunspots, 309, 5.0, 2.9), (airline, 144, 112, 432)):
        series = source.load(workspace.cache, workspace.reporter)
        assert (len(series.values), series.values.dtype) == (count, np.float32)
        assert series.values[[0, -1]] == pytest.approx([first, last])
        assert len(series.train) + series.validation + series.test == count
        inputs, targets = series.windows(20)
        assert (targets[:, :-1] == inputs[:, 1:]).all()
        assert targets[-1, -1] == series.train[-1]
        # Naive forecasts: what came one value, and one season, before.
        assert (series.repeated(1)[1:] == series.truth[:-1]).all()
        assert series.repeated(series.season)[0] == series.known[-series.season]


def test_moby_dick_is_cut_into_rows_of_characters_that_follow_one_another(
    workspace: Workspace,
) -> None:
    data = moby_dick.load(workspace.cache, workspace.reporter)

    assert [len(split) for split in (data.train, data.validation, data.test)] == [8093, 420, 791]
    assert (len(data.labels), data.labels[0]) == (81, "\n")
    for split in (data.train, data.validation, data.test):
        assert (split.targets.ravel()[:-1] == split.inputs.ravel()[1:]).all()
    text = "".join(data.labels[token] for token in data.train.inputs[0])
    assert text.startswith("CHAPTER 1. Loomings.\n\nCall me Ishmael.")


def test_a_limit_keeps_the_first_rows_of_each_split(workspace: Workspace) -> None:
    data = digits.load(workspace.cache, workspace.reporter)
    few = digits.load(workspace.cache, workspace.reporter, limit=50)

    assert (len(few.train), len(few.validation), len(few.test)) == (50, 50, 50)
    assert (few.train.inputs == data.train.inputs[:50]).all()
    assert few.digest() != data.digest()


def test_csv_of_every_byte_value_is_parsed_as_numpy_does() -> None:
    numbers = np.random.default_rng(0).integers(0, 256, 10_000)
    text = ",".join(map(str, numbers)) + "\n"

    assert (mnist._numbers(text.encode()) == np.array(text.split(","), int)).all()


def test_a_wheel_with_another_digest_is_refused_by_both_digests(
    tmp_path: Path, workspace: Workspace
) -> None:
    (tmp_path / mnist.WHEEL.file).write_bytes(b"something else")

    with pytest.raises(DataError) as caught:
        mnist.load(tmp_path, workspace.reporter)

    message = str(caught.value)
    assert mnist.WHEEL.file in message
    assert f"expected sha256 {mnist.WHEEL.sha256}" in message
    assert f"got      sha256 {hashlib.sha256(b'something else').hexdigest()}" in message
    assert "Delete it" in message
    assert [path.name for path in tmp_path.iterdir()] == [mnist.WHEEL.file]


@pytest.mark.parametrize("whole", [True, False])
def test_damaged_arrays_are_refused(*, whole: bool, tmp_path: Path, workspace: Workspace) -> None:
    path = tmp_path / "mnist.npz"
    if whole:
        other = np.zeros(3, np.uint8)
        np.savez(path, train_x=other, train_y=other, test_x=other, test_y=other)
    else:
        path.write_bytes(b"half a file")

    with pytest.raises(DataError, match=r"damaged\. Delete it"):
        mnist.load(tmp_path, workspace.reporter)


def test_what_pip_cannot_get_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(DataError, match=r"could not be downloaded(.|\n)*put none.whl"):
        fetch(NOT_THERE, tmp_path / "cache", workspace.reporter)

    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("package", "tool"),
    [
        (Package("npm", "none@0", "none.tgz", "0" * 64), "npm, which comes with Node.js"),
        (Package("debian", "none=0", "none.deb", "0" * 64), "apt-get, which Debian"),
    ],
)
def test_a_missing_tool_is_named_with_what_brings_it(
    package: Package,
    tool: str,
    tmp_path: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DataError, match=rf"fetched by {tool}(.|\n)*put {package.file} \(sha256 0"):
        fetch(package, tmp_path / "cache", workspace.reporter)

    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("file", ["some-1-py3-none-any.whl", "some-1.tgz", "some_1_all.deb"])
def test_members_are_those_under_a_name(file: str, tmp_path: Path) -> None:
    files = {"data/b.txt": b"2", "data/a.txt": b"1", "code.js": b"3"}
    path = tmp_path / file
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("data")
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        tar = tarball(files)
        path.write_bytes(debian(tar) if path.suffix == ".deb" else tar)

    assert list(members(path, "data/")) == [("data/b.txt", b"2"), ("data/a.txt", b"1")]


def tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        folder = tarfile.TarInfo("data")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def debian(data: bytes) -> bytes:
    """Returns an `ar` archive as deb(5) has it; the first file's size is odd, and so padded."""
    entries = [("debian-binary", b"2.0"), ("control.tar.xz", tarball({})), ("data.tar.xz", data)]
    parts = [
        f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        + content
        + b"\n" * (len(content) % 2)
        for name, content in entries
    ]
    return b"!<arch>\n" + b"".join(parts)


def test_images_are_moved_by_the_draws_they_are_given() -> None:
    images = torch.zeros(2, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 255
    draws = torch.Generator().manual_seed(0)

    moved = jitter(images, draws, shift=2, degrees=0, scale=0)
    again = jitter(images, torch.Generator().manual_seed(0), shift=2, degrees=0, scale=0)
    still = jitter(images, draws, shift=0, degrees=0, scale=0)

    assert moved.equal(again)
    assert not moved[0].equal(moved[1])
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)), torch.full((2,), 255.0))
    torch.testing.assert_close(still, images.float())


def test_importing_data_reads_and_fetches_nothing() -> None:
    code = "import sys, forwardpass.trainer.data; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_are_the_first_test_images_of_each_class(
    tmp_path: Path, workspace: Workspace
) -> None:
    data = digits.load(workspace.cache, workspace.reporter)
    assert write_pictures(data, tmp_path, 2) == 20
    second = data.test.inputs[data.test.targets == 7][1]
    assert (decode_image((tmp_path / "7" / "1.png").read_bytes(), 1) == second).all()
