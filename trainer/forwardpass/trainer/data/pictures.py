"""Test images as PNG files, to try a served model with what it has not learned from."""

from pathlib import Path

import numpy as np

from forwardpass.pixels import encode_png
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import DataError


def write_pictures(dataset: Dataset, folder: Path, count: int) -> int:
    """Writes the first test images of each class: FOLDER/<label>/0.png, 1.png and so on.

    A label's "/" is "-" in the folder's name.

    Args:
        dataset: Its test inputs are uint8 (rows, height, width, channels).
        folder: Where to write; what lies there under these names is replaced.
        count: How many of each class.

    Returns:
        How many were written: fewer than asked for where a class has fewer.

    Raises:
        DataError: It has texts.
    """
    if dataset.test.inputs.dtype == object:
        raise DataError(f"{dataset.name} has texts, of which there are no pictures to write")
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
