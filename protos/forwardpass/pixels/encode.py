"""Pixels to PNG."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Returns a PNG file of uint8 pixels (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image_grid(
    images: NDArray[np.uint8], columns: int | None = None, gap: int = 2
) -> NDArray[np.uint8]:
    """Lays images out in rows on grey: (count, h, w, c) -> (height, width, c).

    Args:
        images: uint8 (count, height, width, channels), count at least 1.
        columns: Images in a row; None makes the grid about square.
        gap: Pixels between images.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 128, np.uint8
    )
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid
