"""Training images that were never drawn: small random changes that leave the class as it is."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def jitter(
    images: Tensor, draws: torch.Generator, *, shift: float, degrees: float, scale: float
) -> Tensor:
    """Moves, turns, and resizes each image by amounts of its own, drawn uniformly.

    Args:
        images: uint8 (n, h, w, 1), on black.
        draws: Where the amounts come from.
        shift: The most pixels in each direction.
        degrees: The most to turn either way.
        scale: The most to grow or shrink, as a fraction.

    Returns:
        float32 (n, h, w, 1) in 0..255, by bilinear interpolation.
    """
    count, height, width, _ = images.shape
    amounts = torch.rand((4, count), generator=draws) * 2 - 1  # in [-1, 1)
    angle = amounts[0] * math.radians(degrees)
    factor = 1 + amounts[1] * scale
    across, down = amounts[2] * (2 * shift / width), amounts[3] * (2 * shift / height)
    cos, sin = angle.cos() * factor, angle.sin() * factor
    # From the place of a pixel in the result to its place in the image, both in [-1, 1].
    maps = torch.stack(
        [torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], dim=1
    )  # (n, 2, 3)
    grid = functional.affine_grid(
        maps, [count, 1, height, width], align_corners=False
    )  # (n, h, w, 2)
    channels_first = images.permute(0, 3, 1, 2).float()
    moved = functional.grid_sample(channels_first, grid, align_corners=False)
    return moved.permute(0, 2, 3, 1)
