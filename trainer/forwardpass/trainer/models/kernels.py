"""Convolutions whose weights somebody chose: filters of image processing, the like of which the
first layers of a network learn.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# All are symmetric, so that convolution and cross-correlation are the same.
KERNELS = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "gaussian_blur": ((1 / 16, 2 / 16, 1 / 16), (2 / 16, 4 / 16, 2 / 16), (1 / 16, 2 / 16, 1 / 16)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "edge_detection": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
}


class Kernels(nn.Module):
    """Every filter of KERNELS, applied to each colour by itself. Nothing in it is trained.

    Pixels beyond the border are those of the border. Sums are rounded and cut to 0..255; they are
    multiples of 1/16, which float32 holds exactly, so that every machine gives the same pixels.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = torch.tensor(list(KERNELS.values()), dtype=torch.float32)  # (k, 3, 3)
        self.register_buffer("weights", filters.repeat(3, 1, 1).unsqueeze(1))  # (3 k, 1, 3, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """From uint8 (n, h, w, 3) to as many images of the same shape and type as KERNELS has."""
        x = image.permute(0, 3, 1, 2).float()  # (n, 3, h, w)
        x = functional.pad(x, (1, 1, 1, 1), mode="replicate")  # (n, 3, h + 2, w + 2)
        x = functional.conv2d(x, self.weights, groups=3)  # (n, 3 k, h, w)
        x = x.round().clamp(0, 255).to(torch.uint8)
        x = x.view(-1, 3, len(KERNELS), *x.shape[2:])  # (n, 3, k, h, w)
        images: tuple[Tensor, ...] = x.permute(2, 0, 3, 4, 1).unbind()  # k of (n, h, w, 3)
        return images
