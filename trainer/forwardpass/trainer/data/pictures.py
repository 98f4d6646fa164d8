"""Test images as PNG files, to try a served model with what it has not learned from."""

from pathlib import Path

import numpy as np

from forwardpass.pixels import encode_png
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.errors import DataError

_TABLE = "--table FILE writes its test rows as CSV"


def write_pictures(dataset: Dataset | Series, folder: Path, count: int) -> int:
    """Writes the first test images of each class: FOLDER/<label>/0.png, 1.png and so on.

    A label's "/" is "-" in the folder's name.

    Args:
        dataset: Pictures: its test inputs are uint8 (rows, height, width, channels).
        folder: Where to write; what lies there under these names is replaced.
        count: How many of each class.

    Returns:
        How many were written: fewer than asked for where a class has fewer.

    Raises:
        DataError: It has no pictures, or they cannot be written.
    """
    if isinstance(dataset, Series):
        raise DataError(f"{dataset.name} is a series of numbers, and no pictures; {_TABLE}")
    inputs = dataset.test.inputs
    if inputs.dtype != np.uint8 or inputs.ndim != 4:
        kind = "texts" if inputs.dtype == object else "rows of numbers"
        raise DataError(f"{dataset.name} has {kind}, and no pictures; {_TABLE}")
    try:
        return _write(dataset, folder, count)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error


def _write(dataset: Dataset, folder: Path, count: int) -> int:
    written = 0
    for index, label in enumerate(dataset.labels):
        rows = np.flatnonzero(dataset.test.targets == index)[:count]
        home = folder / label.replace("/", "-")
        if len(rows):
            home.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            (home / f"{number}.png").write_bytes(encode_png(dataset.test.inputs[row]))
        written += len(rows)
    return written
