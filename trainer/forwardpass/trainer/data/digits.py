"""The UCI handwritten digits that come with scikit-learn (Alpaydin and Kaynak, 1998)."""

from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.training.progress import Reporter

# Which rows are test rows must not change with a run's seed, or results could not be compared.
_SPLIT_SEED = 0


def load(_: Path, __: Reporter, limit: int = 0) -> Dataset:
    """Returns the digits as uint8 (rows, 8, 8, 1) in 0..255, and their classes as int64 (rows).

    1,257 rows to train on, 180 to validate, 360 to test, with equal shares of each class.

    Args:
        limit: Use only so many rows of each split; 0 for all.
    """
    values, classes = load_digits(return_X_y=True)
    # The set counts dark pixels in 4 x 4 blocks, 0..16. An image that arrives as PNG has 0..255,
    # so that is what the model is trained on.
    pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    rest, test, rest_classes, test_classes = train_test_split(
        pixels, classes, test_size=360, stratify=classes, random_state=_SPLIT_SEED
    )
    train, validation, train_classes, validation_classes = train_test_split(
        rest, rest_classes, test_size=180, stratify=rest_classes, random_state=_SPLIT_SEED
    )
    return Dataset(
        name="digits",
        origin=f"scikit-learn=={sklearn.__version__}",
        license="CC BY 4.0",
        labels=tuple("0123456789"),
        train=Split(train, train_classes.astype(np.int64)),
        validation=Split(validation, validation_classes.astype(np.int64)),
        test=Split(test, test_classes.astype(np.int64)),
    ).limited(limit)
