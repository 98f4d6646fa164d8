"""The two photographs that come with scikit-learn, of a palace in China and of a flower."""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import sklearn
from numpy.typing import NDArray

from forwardpass.artefact import array_digest
from forwardpass.pixels import decode_image
from forwardpass.v1 import model_card_pb2

_FILES = ("china.jpg", "flower.jpg")


@dataclass(frozen=True, slots=True)
class Photos:
    """Photographs that are looked at, not learned from: uint8 (2, height, width, 3), RGB."""

    images: NDArray[np.uint8]

    def digest(self) -> str:
        """Returns the SHA-256 of the pixels."""
        return array_digest([self.images])

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of them."""
        return model_card_pb2.DataSource(
            name="photos",
            origin=f"scikit-learn=={sklearn.__version__}",
            license="CC BY 2.0",
            sha256=self.digest(),
        )


def load(height: int, width: int) -> Photos:
    """Returns the photographs, resized as the server would."""
    folder = files("sklearn.datasets.images")
    return Photos(
        np.stack(
            [
                decode_image((folder / name).read_bytes(), channels=3, size=(height, width))
                for name in _FILES
            ]
        )
    )
