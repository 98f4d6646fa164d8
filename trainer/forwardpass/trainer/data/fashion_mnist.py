"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) from the Debian package dataset-fashion-mnist.

The package is downloaded and read as an archive; it is not installed.
"""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.training.progress import Reporter

DEB = Package(
    index="debian",
    requirement="dataset-fashion-mnist=0.0~git20200523.55506a9-1",
    file="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
_FOLDER = "./usr/share/datasets/fashion-mnist/"
# The published training set is shuffled; its last rows serve to choose by.
_VALIDATION_ROWS = 5_000
# Of the training rows' pixels, in [0, 1].
MEAN, DEVIATION = 0.2858, 0.3529
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns images as uint8 (rows, 28, 28, 1) in 0..255, and their classes as int64 (rows).

    55,000 rows to train on, 5,000 to validate, 10,000 to test.

    Args:
        cache: Where the package is kept.
        reporter: Where fetching is told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is another file.
    """
    files = dict(members(fetch(DEB, cache, reporter), _FOLDER))
    images, test_images = (
        _elements(files[f"{_FOLDER}{split}-images-idx3-ubyte.gz"]).reshape(-1, 28, 28, 1)
        for split in ("train", "t10k")
    )
    classes, test_classes = (
        _elements(files[f"{_FOLDER}{split}-labels-idx1-ubyte.gz"]).astype(np.int64)
        for split in ("train", "t10k")
    )
    return Dataset(
        name="fashion-mnist",
        origin=DEB.requirement,
        license="MIT",
        labels=LABELS,
        train=Split(images[:-_VALIDATION_ROWS], classes[:-_VALIDATION_ROWS]),
        validation=Split(images[-_VALIDATION_ROWS:], classes[-_VALIDATION_ROWS:]),
        test=Split(test_images, test_classes),
    ).limited(limit)


def _elements(compressed: bytes) -> NDArray[np.uint8]:
    """Returns the bytes of an IDX file in a row, without its header.

    The format is of LeCun's page on MNIST: the fourth byte counts axes, and the extent of each
    follows in four bytes.
    """
    file = bytearray(gzip.decompress(compressed))  # tensors want memory that may be written
    return np.frombuffer(file, np.uint8, offset=4 + 4 * file[3])
