"""The two photographs that come with scikit-learn, of a palace in China and of a flower."""

from importlib.resources import files

import numpy as np
import sklearn
from numpy.typing import NDArray

from forwardpass.artefact import array_digest
from forwardpass.pixels import decode_image
from forwardpass.v1 import model_card_pb2

_FILES = ("china.jpg", "flower.jpg")


def load(height: int, width: int) -> NDArray[np.uint8]:
    """Returns the photographs, resized as the server would: uint8 (2, height, width, 3), RGB."""
    folder = files("sklearn.datasets.images")
    return np.stack(
        [
            decode_image((folder / name).read_bytes(), channels=3, size=(height, width))
            for name in _FILES
        ]
    )


def source(photos: NDArray[np.uint8]) -> model_card_pb2.DataSource:
    """Returns the card's description of them: they are looked at, not learned from."""
    return model_card_pb2.DataSource(
        name="photos",
        origin=f"scikit-learn=={sklearn.__version__}",
        license="CC BY 2.0",
        sha256=array_digest([photos]),
    )
