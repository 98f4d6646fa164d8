"""Pictures of one's own as a data set: decoded as servers do, each once, and split by content."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from forwardpass.client.card import ImageInput
from forwardpass.pixels import FILE_FORMATS, open_image, to_pixels
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.data.folders import Why
from forwardpass.trainer.data.own_photos import Asked, in_turn, load, load_unlabelled
from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Preparation, Resize

SMALL = ImageInput("image", 8, 8, 3)


class Reading:
    """Reads a folder of the test's own, and keeps what is told meanwhile."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self._told = io.StringIO()
        self._runs = root / "runs"
        self._reporter = Reporter(Console(file=self._told, width=1000))

    @property
    def told(self) -> str:
        return self._told.getvalue()

    def write(self, label: str, count: int, first: int = 0) -> None:
        """Writes pictures of noise, each another one."""
        (self.data / label).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            noise(f"{label}{number}").save(self.data / label / f"{number}.png")

    def load(self, test: Path | None = None, *, validates: bool = False, limit: int = 0) -> Dataset:
        asked = Asked(self.data, test, validates, limit)
        return load(asked, SMALL, self._runs, self._reporter)

    def load_unlabelled(self, image: ImageInput = SMALL) -> Dataset:
        return load_unlabelled(self.data, image, 0, self._runs, self._reporter)


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading(tmp_path)


def noise(name: str, mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    return Image.fromarray(draw.integers(0, 256, (12, 9, 3), np.uint8)).convert(mode)


def why(data: Dataset) -> dict[str, str]:
    return {Path(each.file).name: each.why for each in data.left_out.items}


def rows(data: Dataset) -> list[set[bytes]]:
    splits = (data.train, data.validation, data.test)
    return [{row.tobytes() for row in split.inputs} for split in splits]


def test_splits_have_their_share_of_each_class_and_no_picture_in_common(reading: Reading) -> None:
    reading.write("cat", 20)
    reading.write("dog", 50)
    reading.write("eel", 3)

    data = reading.load(validates=True)

    assert data.labels == ("cat", "dog", "eel")
    counts = [
        np.bincount(split.targets).tolist() for split in (data.train, data.validation, data.test)
    ]
    assert counts == [[14, 35, 1], [2, 5, 1], [4, 10, 1]]
    train, validation, test = rows(data)
    assert len(train | validation | test) == 73
    assert data.train.inputs.shape == (50, 8, 8, 3)
    # Each class in turn: the first rows are of all of them.
    assert data.train.targets[:5].tolist() == [0, 1, 2, 0, 1]
    assert "fewer than 5 pictures to test 'cat', 'eel' on" in reading.told


def test_a_split_depends_on_content_alone(reading: Reading, tmp_path: Path) -> None:
    reading.write("cat", 10)
    reading.write("dog", 10)
    first = reading.load()
    other = Reading(tmp_path / "other")
    for label in ("cat", "dog"):
        (other.data / label).mkdir(parents=True)
        for path in (reading.data / label).iterdir():
            # Another name, and another format.
            Image.open(path).save(other.data / label / f"{hash(path)}.bmp")
    again = other.load()

    assert again.digest() == first.digest()
    assert (again.test.inputs == first.test.inputs).all()
    reading.write("cat", 1, first=10)
    assert reading.load().digest() != first.digest()


def test_copies_count_once_and_two_labels_count_for_none(reading: Reading) -> None:
    reading.write("cat", 6)
    reading.write("dog", 6)
    cat, dog = reading.data / "cat", reading.data / "dog"
    (cat / "9-copy.png").write_bytes((cat / "0.png").read_bytes())
    Image.open(cat / "1.png").save(cat / "9-other.tif")
    (dog / "as-cat.png").write_bytes((cat / "2.png").read_bytes())

    data = reading.load()

    assert why(data) == {
        "9-copy.png": Why.DUPLICATE,
        "9-other.tif": Why.DUPLICATE,
        "2.png": Why.TWO_LABELS,
        "as-cat.png": Why.TWO_LABELS,
    }
    assert len(data.train) + len(data.test) == 5 + 6
    reasons = {Path(each.file).name: each.detail for each in data.left_out.items}
    assert reasons["9-copy.png"] == f"the same picture as {cat / '0.png'}"
    assert reasons["2.png"] == f"the same picture is labelled 'dog' as {dog / 'as-cat.png'}"
    assert f"left out: 2 files (duplicate), such as {cat / '9-copy.png'}: the same" in reading.told
    assert "left out: 2 files (two labels), such as" in reading.told
    assert data.source().left_out == {"file": 4}


def test_what_is_tested_on_is_never_learned_from(reading: Reading, tmp_path: Path) -> None:
    reading.write("cat", 6)
    reading.write("dog", 6)
    held = Reading(tmp_path / "held")
    held.write("cat", 2)
    held.write("dog", 2, first=100)

    data = reading.load(held.data)

    assert why(data) == {"0.png": Why.IN_TEST, "1.png": Why.IN_TEST}
    assert (len(data.train), len(data.test)) == (10, 4)
    train, _, test = rows(data)
    assert not train & test
    held.write("eel", 1)
    with pytest.raises(DataError, match=r"test=.* has the classes 'eel', .* has 'cat', 'dog'"):
        reading.load(held.data)


def test_a_picture_of_any_kind_is_what_a_server_would_see(reading: Reading) -> None:
    reading.write("dog", 3)
    folder = reading.data / "cat"
    folder.mkdir(parents=True)
    for mode in ("RGB", "L", "LA", "1", "P", "RGBA"):
        noise(mode, mode).save(folder / f"{mode}.png")
    noise("CMYK", "CMYK").save(folder / "CMYK.jpg")
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(12, 9) * 600).save(folder / "16.png")
    noise("gif").save(folder / "animated.gif", save_all=True, append_images=[noise("second")])
    turned = Image.Exif()
    turned[0x0112] = 6
    noise("turned").save(folder / "turned.jpg", exif=turned, quality=95)
    noise("webp").save(folder / "lossy.webp")
    expected = {
        to_pixels(open_image(path.read_bytes(), formats=FILE_FORMATS), 3, (8, 8)).tobytes()
        for path in folder.iterdir()
    }

    data = reading.load()

    assert not data.left_out
    cats = {
        row.tobytes()
        for split in (data.train, data.test)
        for row in split.inputs[split.targets == 0]
    }
    assert len(expected) == 11
    assert cats == expected


def test_files_that_are_no_pictures_are_left_out_with_the_reason(reading: Reading) -> None:
    reading.write("cat", 4)
    reading.write("dog", 4)
    folder = reading.data / "cat"
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        whole, "JPEG"
    )
    (folder / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb(60_000))
    (folder / "sparse.bmp").touch()
    os.truncate(folder / "sparse.bmp", 1 << 40)

    data = reading.load()

    assert set(why(data).values()) == {Why.UNREADABLE}
    reasons = {Path(each.file).name: each.detail for each in data.left_out.items}
    assert reasons["cut.jpg"].startswith("the image is damaged: image file is truncated")
    assert reasons["text.jpg"].startswith("the bytes are no image of a kind that is read: JPEG")
    assert reasons["empty.png"].startswith("the bytes are no image of a kind that is read")
    assert reasons["bomb.png"] == "the image has too many pixels; at most 64000000 are read"
    assert reasons["sparse.bmp"].endswith("at most 268435456 are read")
    assert len(data.train) + len(data.test) == 8


def bomb(side: int) -> bytes:
    """Returns a PNG of a few hundred bytes whose header claims a square of so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * side)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("counts", "validates", "message"),
    [
        ({"cat": 5}, False, "has one class, 'cat', and a classifier tells two or more apart"),
        (
            {"cat": 5, "dog": 1},
            False,
            "'dog' has 1 picture that .* one to learn from and one to test",
        ),
        (
            {"cat": 5, "dog": 2},
            True,
            "'dog' has 2 .* one to learn from and one to choose weights by and one to test on",
        ),
    ],
)
def test_too_little_to_learn_from_teaches(
    counts: dict[str, int], *, validates: bool, message: str, reading: Reading
) -> None:
    for label, count in counts.items():
        reading.write(label, count)

    with pytest.raises(DataError, match=message):
        reading.load(validates=validates)


def test_a_class_of_nothing_but_damaged_files_is_an_error_and_says_which(reading: Reading) -> None:
    reading.write("cat", 5)
    (reading.data / "dog").mkdir()
    (reading.data / "dog" / "1.jpg").write_text("no picture")

    with pytest.raises(
        DataError, match=r"'dog' has 0 .*1 file \(unreadable\), such as .*dog/1.jpg: the b"
    ):
        reading.load()


def test_a_limit_reads_few_files_and_keeps_every_class(reading: Reading) -> None:
    for label in ("cat", "dog", "eel"):
        reading.write(label, 40)

    data = reading.load(limit=4)

    assert (len(data.train), len(data.test)) == (4, 3)
    assert set(data.train.targets) == {0, 1, 2}
    with pytest.raises(SettingError, match="limit=2: give at least 3, a row for each class"):
        reading.load(limit=2)


def test_pixels_are_kept_on_disk_and_leave_no_file(reading: Reading, tmp_path: Path) -> None:
    reading.write("cat", 70)  # more than are decoded at a time
    reading.write("dog", 5)

    data = reading.load()

    assert isinstance(data.train.inputs, np.memmap)
    assert list((tmp_path / "runs").iterdir()) == []
    # torch takes no array that cannot be written to.
    assert data.train.inputs.flags.writeable


def test_a_place_without_room_is_told(reading: Reading, small_disk: Path) -> None:
    reading.write("cat", 5)
    reading.write("dog", 5)
    asked = Asked(reading.data, None, validates=False, limit=0)
    large = ImageInput("image", 500, 500, 3)

    with pytest.raises(
        DataError, match=r"cannot be kept in .*: No space left on device. .* --runs"
    ):
        load(asked, large, small_disk, Reporter(Console(file=io.StringIO())))


def test_pictures_without_labels_are_grey_where_all_are(reading: Reading) -> None:
    reading.data.mkdir(parents=True)
    for number in range(3):
        noise(f"grey{number}", "L").save(reading.data / f"{number}.jpg")
    cut = ImageInput("image", 8, 8, 3, Preparation(Resize.CROP))

    grey = reading.load_unlabelled(cut)
    noise("colour").save(reading.data / "colour.png")
    colour = reading.load_unlabelled(cut)

    assert grey.train.inputs.shape == (3, 8, 8, 1)
    assert colour.train.inputs.shape == (4, 8, 8, 3)
    assert len(grey.test) == len(grey.validation) == 0
    assert "3 pictures in grey" in reading.told
    assert "4 pictures in colour" in reading.told


def test_groups_take_turns() -> None:
    assert in_turn(["abc", "", "d", "ef"]) == list("adebfc")
