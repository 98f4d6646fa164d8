"""Principal component analysis: Pearson 1901, on faces Turk and Pentland, "Eigenfaces for
recognition", 1991.
"""

import torch
from torch import Tensor, nn

from forwardpass.trainer.models.reconstruction import Reconstructor


class Pca(Reconstructor):
    """Coordinates of an image along the directions in which images vary most, in grey levels.

    Args:
        mean: The mean image, float32 (h, w, 1).
        components: Directions of length 1, at right angles, the greatest variance first:
            float32 (count, h, w, 1).
    """

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.components = nn.Parameter(components, requires_grad=False)

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 or float (n, h, w, 1) in 0..255 to coordinates (n, count)."""
        centred = (image.float() - self.mean).flatten(1)  # (n, h w)
        return centred @ self.components.flatten(1).T

    def draw(self, embedding: Tensor) -> Tensor:
        """From coordinates (n, count) to images, float32 (n, h, w, 1)."""
        offsets = embedding @ self.components.flatten(1)  # (n, h w)
        return self.mean + offsets.reshape(-1, *self.mean.shape)

    def first(self, count: int) -> "Pca":
        """Returns the analysis with so many components."""
        return Pca(self.mean, self.components[:count])


def fit_pca(images: Tensor) -> tuple[Pca, Tensor]:
    """Returns all components of some images, exactly, and the variance along each, (count).

    By the singular value decomposition of the centred images. A component may as well point the
    other way; here its element of the greatest size is positive.

    Args:
        images: uint8 (n, h, w, 1). Their mean takes one of n dimensions: n - 1 components are
            left, or as many as there are pixels.
    """
    pixels = images.double()
    mean = pixels.mean(dim=0)
    count = min(len(images) - 1, mean.numel())
    _, sizes, directions = torch.linalg.svd((pixels - mean).flatten(1), full_matrices=False)
    directions = directions[:count]  # (count, h w)
    greatest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, greatest).sign()
    variances = sizes[:count].square() / (len(images) - 1)
    components = directions.reshape(-1, *mean.shape)
    return Pca(mean.float(), components.float()), variances.float()
