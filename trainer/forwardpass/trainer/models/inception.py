"""Inception-v3: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture
for computer vision", 2015.

Figures and sections are the paper's. It leaves the widths of most branches open, and in code its
authors kept a 5 x 5 branch in the first modules; both are here as in their code and torchvision's.
"""

import torch
from torch import Tensor, nn

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.embedding import EmbeddingNetwork


class InceptionV3(EmbeddingNetwork):
    """23,834,568 parameters; 27,161,264 with the auxiliary head.

    Args:
        auxiliary: Whether there is an auxiliary classifier, for training (section 4). It takes no
            part in evaluation.
    """

    def __init__(self, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            imagenet.normalize_pixels(),  # (n, 3, 299, 299)
            _convolution(3, 32, 3, stride=2),  # (n, 32, 149, 149)
            _convolution(32, 32, 3),  # (n, 32, 147, 147)
            _convolution(32, 64, 3, padding=1),
            nn.MaxPool2d(3, stride=2),  # (n, 64, 73, 73)
            _convolution(64, 80, 1),
            _convolution(80, 192, 3),  # (n, 192, 71, 71)
            nn.MaxPool2d(3, stride=2),  # (n, 192, 35, 35)
        )
        self.to_17 = nn.Sequential(
            _module_35(192, pooled=32),  # (n, 256, 35, 35)
            _module_35(256, pooled=64),  # (n, 288, 35, 35)
            _module_35(288, pooled=64),
            _reduction_to_17(288),  # (n, 768, 17, 17)
            _module_17(narrow=128),
            _module_17(narrow=160),
            _module_17(narrow=160),
            _module_17(narrow=192),
        )
        self.to_8 = nn.Sequential(
            _reduction_to_8(768),  # (n, 1280, 8, 8)
            _module_8(1280),  # (n, 2048, 8, 8)
            _module_8(2048),
        )
        self.dropout = nn.Dropout()
        self.head = nn.Linear(2048, imagenet.CLASSES)
        self.auxiliary = _auxiliary_head(768) if auxiliary else None

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, 299, 299, 3), red first, to embeddings (n, 2048), none negative."""
        return self._embed(self._maps(image))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """From uint8 (n, 299, 299, 3), red first, to logits (n, 1000).

        In training, where there is an auxiliary head, to its logits too: the loss takes both.
        """
        maps = self._maps(image)
        logits: Tensor = self.head(self._embed(maps))
        if self.training and self.auxiliary is not None:
            return logits, self.auxiliary(maps)
        return logits

    def _maps(self, image: Tensor) -> Tensor:
        """Returns what the auxiliary head looks at: (n, 768, 17, 17)."""
        maps: Tensor = self.to_17(self.stem(image))
        return maps

    def _embed(self, maps: Tensor) -> Tensor:
        # A mean over axes is deterministic everywhere; adaptive pooling is not on a GPU.
        embedding: Tensor = self.dropout(self.to_8(maps).mean(dim=(2, 3)))
        return embedding


class Branches(nn.Module):
    """The module of figure 4: several ways through, whose maps are put side by side.

    Args:
        ways: Each from (n, channels, h, w) to (n, its own width, h', w').
    """

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, sum of the widths, h', w')."""
        return torch.cat([way(x) for way in self.ways], dim=1)


def _module_35(channels: int, pooled: int) -> Branches:
    """Returns figure 5's module for 35 x 35 maps: two 3 x 3 convolutions see what a 5 x 5 sees, for
    28 % fewer parameters (section 3.1). (n, channels, 35, 35) to (n, 224 + pooled, 35, 35).
    """
    return Branches(
        _convolution(channels, 64, 1),
        nn.Sequential(_convolution(channels, 48, 1), _convolution(48, 64, 5, padding=2)),
        nn.Sequential(
            _convolution(channels, 64, 1),
            _convolution(64, 96, 3, padding=1),
            _convolution(96, 96, 3, padding=1),
        ),
        _pooled(channels, pooled),
    )


def _reduction_to_17(channels: int) -> Branches:
    """Returns figure 10's reduction, which pools and convolves side by side so that nothing is
    squeezed (section 5). (n, channels, 35, 35) to (n, 480 + channels, 17, 17).
    """
    return Branches(
        _convolution(channels, 384, 3, stride=2),
        nn.Sequential(
            _convolution(channels, 64, 1),
            _convolution(64, 96, 3, padding=1),
            _convolution(96, 96, 3, stride=2),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _module_17(narrow: int) -> Branches:
    """Returns figure 6's module for 17 x 17 maps: 1 x 7 and then 7 x 1 in place of 7 x 7 (section
    3.2), on maps of which there are only `narrow`. (n, 768, 17, 17) to the same.
    """
    return Branches(
        _convolution(768, 192, 1),
        nn.Sequential(
            _convolution(768, narrow, 1),
            _across(narrow, narrow, 7),
            _down(narrow, 192, 7),
        ),
        nn.Sequential(
            _convolution(768, narrow, 1),
            _down(narrow, narrow, 7),
            _across(narrow, narrow, 7),
            _down(narrow, narrow, 7),
            _across(narrow, 192, 7),
        ),
        _pooled(768, 192),
    )


def _reduction_to_8(channels: int) -> Branches:
    """Returns the second reduction of section 5. (n, channels, 17, 17) to (n, 512 + channels, 8,
    8).
    """
    return Branches(
        nn.Sequential(_convolution(channels, 192, 1), _convolution(192, 320, 3, stride=2)),
        nn.Sequential(
            _convolution(channels, 192, 1),
            _across(192, 192, 7),
            _down(192, 192, 7),
            _convolution(192, 192, 3, stride=2),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _module_8(channels: int) -> Branches:
    """Returns figure 7's module for 8 x 8 maps, which spreads out: 1 x 3 beside 3 x 1, not before
    it. (n, channels, 8, 8) to (n, 2048, 8, 8).
    """
    return Branches(
        _convolution(channels, 320, 1),
        nn.Sequential(
            _convolution(channels, 384, 1),
            Branches(_across(384, 384, 3), _down(384, 384, 3)),
        ),
        nn.Sequential(
            _convolution(channels, 448, 1),
            _convolution(448, 384, 3, padding=1),
            Branches(_across(384, 384, 3), _down(384, 384, 3)),
        ),
        _pooled(channels, 192),
    )


def _auxiliary_head(channels: int) -> nn.Sequential:
    """Returns figure 8's classifier, batch-normalised (section 4). (n, channels, 17, 17) to logits
    (n, 1000).
    """
    return nn.Sequential(
        nn.AvgPool2d(5, stride=3),  # (n, channels, 5, 5)
        _convolution(channels, 128, 1),
        _convolution(128, 768, 5),  # (n, 768, 1, 1)
        nn.Flatten(),
        nn.Linear(768, imagenet.CLASSES),
    )


def _pooled(channels: int, width: int) -> nn.Sequential:
    """Returns the way that averages neighbours: (n, channels, h, w) to (n, width, h, w)."""
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _convolution(channels, width, 1))


def _across(channels: int, width: int, size: int) -> nn.Sequential:
    """Returns a convolution of 1 x size that keeps h and w."""
    return _convolution(channels, width, (1, size), padding=(0, size // 2))


def _down(channels: int, width: int, size: int) -> nn.Sequential:
    """Returns a convolution of size x 1 that keeps h and w."""
    return _convolution(channels, width, (size, 1), padding=(size // 2, 0))


def _convolution(
    channels: int,
    width: int,
    size: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
) -> nn.Sequential:
    """Returns a convolution, its normalisation and its ReLU, as everywhere in the network."""
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, padding, bias=False),
        nn.BatchNorm2d(width, eps=1e-3),
        nn.ReLU(),
    )
