"""A generator and its discriminator: Radford, Metz and Chintala, "Unsupervised representation
learning with deep convolutional generative adversarial networks", 2015.
"""

import torch
from torch import Tensor, nn


def generator(latent: int, width: int) -> nn.Sequential:
    """Returns the network from latents (n, latent) to images (n, 1, 28, 28) in [-1, 1].

    Args:
        latent: Numbers in a latent vector.
        width: Channels of the last hidden layer; earlier ones have twice and four times as many.
    """
    return nn.Sequential(
        nn.Linear(latent, 4 * width * 9, bias=False),
        nn.Unflatten(1, (4 * width, 3, 3)),  # (n, 4 w, 3, 3)
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, bias=False),  # (n, 2 w, 7, 7)
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False),  # (n, w, 14, 14)
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # (n, 1, 28, 28)
        nn.Tanh(),
    ).apply(_initialize)


def discriminator(width: int) -> nn.Sequential:
    """Returns the network from images (n, 1, 28, 28) in [-1, 1] to scores (n, 1), high for real.

    Args:
        width: Channels of the first layer; later ones have twice and four times as many.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),  # (n, w, 14, 14)
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (n, 2 w, 7, 7)
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),  # (n, 4 w, 3, 3)
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * 9, 1),
    ).apply(_initialize)


class Sampler(nn.Module):
    """What the recipe publishes: the generator, and pixels made of what it gives.

    Args:
        network: A trained generator.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor) -> Tensor:
        """From float32 (n, latent) to uint8 (n, 28, 28, 1)."""
        image: Tensor = (self.network(latent) + 1) * 127.5
        return image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _initialize(layer: nn.Module) -> None:
    """Draws small normal weights, as the paper does."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, mean=1, std=0.02)
