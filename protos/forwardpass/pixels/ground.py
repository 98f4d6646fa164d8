"""The ground that a picture's strokes lie on."""

import numpy as np
from numpy.typing import NDArray


def grounds(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns how bright each image's ground is, in [0, 1]: the median of its outermost pixels.

    A picture's mean would not do: of clothes on black one in twenty is brighter than middle grey.

    Args:
        images: uint8 (count, height, width, channels); a pixel counts as the mean of its channels.
    """
    sides = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    border = np.concatenate(sides, axis=1).mean(axis=2)  # (count, pixels)
    brightness: NDArray[np.float64] = np.median(border, axis=1) / 255
    return brightness
