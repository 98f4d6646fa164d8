"""Training images that were never drawn: small random changes that leave the class as it is."""

import math
from collections.abc import Sequence

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


def crop_and_flip(
    images: Tensor, draws: torch.Generator, *, border: int, fill: Sequence[int] | None
) -> Tensor:
    """Cuts each image anew out of itself within a border, and mirrors half of them.

    What He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, section 4.2,
    do to CIFAR-10, after Lee et al., "Deeply-supervised nets", 2014.

    Args:
        images: uint8 (n, h, w, c).
        draws: Where the places and the mirroring come from.
        border: Pixels on each side, and so the furthest that an image moves.
        fill: The border's value for each channel, in 0..255; None for the nearest pixel's.

    Returns:
        uint8 (n, h, w, c).
    """
    count, height, width, _ = images.shape
    down, across = torch.randint(-border, border + 1, (2, count, 1), generator=draws)
    mirrored = torch.rand((count, 1), generator=draws) < 0.5
    rows = torch.arange(height) + down  # (n, h)
    columns = torch.arange(width) + across  # (n, w)
    columns = torch.where(mirrored, columns.flip(1), columns)
    inner_rows, inner_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    image = torch.arange(count)[:, None, None]
    cut = images[image, inner_rows[:, :, None], inner_columns[:, None, :]]
    if fill is None:
        return cut
    outside = (rows != inner_rows)[:, :, None] | (columns != inner_columns)[:, None, :]
    return torch.where(outside[..., None], torch.tensor(fill, dtype=torch.uint8), cut)
