"""Encoded pictures to a model's pixels, with a bound on the memory that takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.reading import RowError
from forwardpass.pixels import (
    FILE_FORMATS,
    ByteBudget,
    ImageError,
    decoding_bytes,
    open_image,
    to_pixels,
)

# For all pictures that are decoded at one time.
_BUDGET_BYTES = 512 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as a model gets it.

    Attributes:
        pixels: uint8 (height, width, channels).
        width: Pixels of the picture itself.
        height: Pixels of the picture itself.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


class Decoder:
    """Decodes pictures; may be used by several threads.

    Args:
        image: The model's images, and how they are prepared.
        invert: Whether to give negatives.
        budget: For the memory of all that is decoded at one time.
    """

    def __init__(
        self, image: ImageInput, *, invert: bool, budget: ByteBudget | None = None
    ) -> None:
        self._image = image
        self._invert = invert
        self._budget = budget or ByteBudget(_BUDGET_BYTES)

    def decode(self, data: bytes) -> Picture:
        """Returns the pixels of a file's first frame.

        Raises:
            RowError: It is no picture, a damaged one, or one too large.
        """
        image = self._image
        try:
            opened = open_image(data, formats=FILE_FORMATS)
            width, height = opened.size
            with self._budget.use(decoding_bytes(opened, image.channels)):
                size = (image.height, image.width)
                pixels = to_pixels(opened, image.channels, size, image.preparation)
        except ImageError as error:
            raise RowError(str(error)) from None
        except MemoryError:
            raise RowError("there is not enough memory to decode it") from None
        except Exception as error:  # noqa: BLE001
            # A decoder meets anything in a damaged file, and one file must not end a job.
            raise RowError(f"the image is damaged: {type(error).__name__}: {error}") from None
        return Picture(255 - pixels if self._invert else pixels, width, height)
