"""A generator and its discriminator: Radford, Metz and Chintala, "Unsupervised representation
learning with deep convolutional generative adversarial networks", 2015. And the same two, told
which class is asked for: Mirza and Osindero, "Conditional generative adversarial nets", 2014.
"""

import torch
from torch import Tensor, nn


def generator(latent: int, width: int, size: int = 28, channels: int = 1) -> nn.Sequential:
    """Returns the network from latents (n, latent) to images (n, channels, size, size) in [-1, 1].

    Args:
        latent: Numbers in a latent vector.
        width: Channels of the last hidden layer; earlier ones have twice and four times as many.
        size: Pixels of a side: a multiple of 4, at least 8.
        channels: Of the images.
    """
    side = size // 8  # of the smallest map
    # The first doubling adds a row and a column where a side of four times as many needs it.
    kernel, padding = (3, 0) if size % 8 else (4, 1)
    return nn.Sequential(
        nn.Linear(latent, 4 * width * side**2, bias=False),
        nn.Unflatten(1, (4 * width, side, side)),  # (n, 4 w, s, s)
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(
            4 * width, 2 * width, kernel, stride=2, padding=padding, bias=False
        ),  # (n, 2 w, size / 4, size / 4)
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(
            2 * width, width, 4, stride=2, padding=1, bias=False
        ),  # (n, w, size / 2, size / 2)
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),  # (n, c, size, size)
        nn.Tanh(),
    ).apply(_initialize)


def discriminator(width: int, channels: int = 1, size: int = 28) -> nn.Sequential:
    """Returns the network from images (n, channels, size, size) to scores (n, 1), high for real.

    Args:
        width: Channels of the first layer; later ones have twice and four times as many.
        channels: Of the images, of which pixels are in [-1, 1].
        size: Pixels of a side, as of `generator`.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),  # (n, w, size / 2, size / 2)
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (n, 2 w, size / 4, size / 4)
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),  # (n, 4 w, s, s)
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * (size // 8) ** 2, 1),
    ).apply(_initialize)


class ConditionalGenerator(nn.Module):
    """A generator that is told which class to draw, by ones and zeros beside the latent vector.

    Args:
        latent: Numbers in a latent vector.
        classes: How many there are.
        width: As of `generator`.
    """

    def __init__(self, latent: int, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.network = generator(latent + classes, width)

    def forward(self, latent: Tensor, class_index: Tensor) -> Tensor:
        """From float32 (n, latent) and int64 (n) to images (n, 1, 28, 28) in [-1, 1]."""
        told = torch.cat([latent, _one_hot(class_index, self.classes)], dim=1)
        image: Tensor = self.network(told)
        return image


class ConditionalDiscriminator(nn.Module):
    """A discriminator that is told which class an image is said to be.

    It sees one more channel a class: all ones for that which is said, zeros for the others.

    Args:
        classes: How many there are.
        width: As of `discriminator`.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.network = discriminator(width, 1 + classes)

    def forward(self, image: Tensor, class_index: Tensor) -> Tensor:
        """From images (n, 1, 28, 28) in [-1, 1] and int64 (n) to scores (n, 1), high for real."""
        planes = _one_hot(class_index, self.classes)[:, :, None, None]
        planes = planes.expand(-1, -1, *image.shape[2:])  # (n, classes, 28, 28)
        score: Tensor = self.network(torch.cat([image, planes], dim=1))
        return score


class Sampler(nn.Module):
    """What the recipe publishes: the generator, and pixels made of what it gives.

    Args:
        network: A trained generator.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor) -> Tensor:
        """From float32 (n, latent) to uint8 (n, h, w, c)."""
        return _pixels(self.network(latent))


class ConditionalSampler(nn.Module):
    """As `Sampler`, of a generator that is told which class to draw.

    Args:
        network: A trained conditional generator.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor, class_index: Tensor) -> Tensor:
        """From float32 (n, latent) and int64 (n) to uint8 (n, 28, 28, 1)."""
        return _pixels(self.network(latent, class_index))


def between(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Returns latent vectors on the way from one to another, along a great circle.

    A straight line would lead through shorter vectors than a generator was trained on, since those
    of normal numbers lie near a sphere: White, "Sampling generative networks", 2016.

    Args:
        first: (n, latent).
        last: (n, latent), none of which is parallel to the first.
        count: Of vectors, the first and the last included; at least 2.

    Returns:
        (n, count, latent).
    """
    cosine = nn.functional.cosine_similarity(first, last)[:, None, None]  # (n, 1, 1)
    angle = cosine.arccos()
    done = torch.linspace(0, 1, count)[None, :, None]  # (1, count, 1)
    shares = ((1 - done) * angle).sin(), (done * angle).sin()
    return (shares[0] * first[:, None] + shares[1] * last[:, None]) / angle.sin()


def _pixels(image: Tensor) -> Tensor:
    """From (n, c, h, w) in [-1, 1] to uint8 (n, h, w, c)."""
    image = (image + 1) * 127.5
    return image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _one_hot(class_index: Tensor, classes: int) -> Tensor:
    """From int64 (n) to float32 (n, classes), 1 at the class of each row and else 0."""
    return (class_index[:, None] == torch.arange(classes, device=class_index.device)).float()


def _initialize(layer: nn.Module) -> None:
    """Draws small normal weights, as the paper does."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, mean=1, std=0.02)
