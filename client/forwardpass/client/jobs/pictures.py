"""Encoded pictures to a model's pixels, with a bound on the memory that takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.reading import RowError
from forwardpass.pixels import FILE_FORMATS, ImageError, open_image, to_pixels

# What decoding takes a pixel: the picture as it is, and as it becomes, at up to four bytes each.
_BYTES_A_PIXEL = 8
# For all pictures that are decoded at one time.
_BUDGET_BYTES = 512 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as a model gets it.

    Attributes:
        pixels: uint8 (height, width, channels), as the model's card says.
        width: Pixels of the picture itself.
        height: Pixels of the picture itself.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


class ByteBudget:
    """Lets threads use memory, in turn where it would be too much at once.

    Args:
        size: Bytes. Who wants more waits to be the only one.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def use(self, size: int) -> Iterator[None]:
        """Waits until so many bytes are free, and gives them back at the end."""
        with self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


class Decoder:
    """Decodes pictures; may be used by several threads.

    Args:
        image: What the card says of the model's images.
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
            with self._budget.use(width * height * _BYTES_A_PIXEL):
                pixels = to_pixels(opened, image.channels, (image.height, image.width))
        except ImageError as error:
            raise RowError(str(error)) from None
        except MemoryError:
            raise RowError("there is not enough memory to decode it") from None
        except Exception as error:  # noqa: BLE001
            # A decoder meets anything in a damaged file, and one file must not end a job.
            raise RowError(f"the image is damaged: {type(error).__name__}: {error}") from None
        return Picture(255 - pixels if self._invert else pixels, width, height)
