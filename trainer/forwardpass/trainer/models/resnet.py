"""Residual networks: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015.

`mnist_resnet` is small; `cifar_resnet` makes the paper's networks of 6 n + 2 layers, and
`imagenet_resnet` those of 18, 34, 50, 101 and 152.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.pixels import Normalize, NormalizeChannels


class Block(nn.Module):
    """Convolutions and a shortcut around them: relu(F(x) + x).

    Args:
        residual: F, from (n, channels, h, w) to (n, width, h / stride, w / stride); ends in a
            normalisation.
        shortcut: From and to the same.
    """

    def __init__(self, residual: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, width, h / stride, w / stride)."""
        added: Tensor = self.residual(x) + self.shortcut(x)
        return added.relu()


class PaddedShortcut(nn.Module):
    """The paper's option A: the identity, without a parameter.

    Args:
        channels: Of the input.
        width: Of the output, at least `channels`; the further ones are zeros.
        stride: Every so many pixels are taken, along both axes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.zeros, self.stride = width - channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, width, h / stride, w / stride)."""
        taken = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(taken, (0, 0, 0, 0, 0, self.zeros))


# From channels, width and stride to a block.
MakeBlock = Callable[[int, int, int], Block]


def basic_block(channels: int, width: int, stride: int) -> Block:
    """Returns a block of two 3 x 3 convolutions, the first of which has the stride."""
    return Block(_two_convolutions(channels, width, stride), _projection(channels, width, stride))


def padded_block(channels: int, width: int, stride: int) -> Block:
    """Returns a basic block with a shortcut that has no parameters."""
    residual = _two_convolutions(channels, width, stride)
    if channels == width and stride == 1:
        return Block(residual, nn.Identity())
    return Block(residual, PaddedShortcut(channels, width, stride))


def bottleneck_block(channels: int, width: int, stride: int) -> Block:
    """Returns a block that narrows to a quarter of its width, convolves 3 x 3, and widens again.

    The stride is the 3 x 3 convolution's, as in torchvision and NVIDIA's "ResNet v1.5"; the paper
    has it at the first 1 x 1, which skips three quarters of the pixels. Parameters are the same.
    """
    narrow = width // 4
    residual = nn.Sequential(
        *_convolution(channels, narrow, 1),
        nn.ReLU(),
        *_convolution(narrow, narrow, 3, stride),
        nn.ReLU(),
        *_convolution(narrow, width, 1),
    )
    return Block(residual, _projection(channels, width, stride))


class ResNet(EmbeddingNetwork):
    """Logits, by way of an embedding: the mean of the last block's maps.

    Args:
        normalize: From pixels to what the stem takes.
        stem: What comes before the blocks.
        blocks: End in (n, width, h, w).
        width: Numbers in the embedding.
        classes: How many.
    """

    def __init__(
        self, normalize: nn.Module, stem: nn.Module, blocks: nn.Module, width: int, classes: int
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.stem = stem
        self.blocks = blocks
        self.head = nn.Linear(width, classes)

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to embeddings (n, width), none of them negative."""
        x = self.blocks(self.stem(self.normalize(image)))  # (n, width, h, w)
        # A mean over axes is deterministic everywhere; adaptive pooling is not on a GPU.
        embedding: Tensor = x.mean(dim=(2, 3))  # (n, width)
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to logits (n, classes)."""
        logits: Tensor = self.head(self.embed(image))
        return logits


def mnist_resnet(mean: float, deviation: float) -> ResNet:
    """Returns a network of three blocks: uint8 (n, 28, 28, 1) to ten logits, by way of 64 numbers.

    Args:
        mean: Of the training set's pixels, in [0, 1].
        deviation: Their standard deviation.
    """
    return ResNet(
        Normalize(mean, deviation),
        nn.Sequential(*_convolution(1, 16, 3, stride=2), nn.ReLU()),  # (n, 16, 14, 14)
        nn.Sequential(
            basic_block(16, 16, 1),
            basic_block(16, 32, 2),
            basic_block(32, 64, 2),
        ),  # (n, 64, 4, 4)
        width=64,
        classes=10,
    )


# Layers of the paper's networks for CIFAR-10 (table 6).
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def cifar_resnet(
    depth: int, mean: Sequence[float], deviation: Sequence[float], classes: int = 10
) -> ResNet:
    """Returns the network of section 4.2: uint8 (n, 32, 32, 3) to logits, by way of 64 numbers.

    A convolution, then (depth - 2) / 6 blocks each of 16, 32 and 64 maps, and a linear layer. With
    20 layers it has 269,722 parameters, none of them in a shortcut. Pixels are shifted and scaled
    by channel, where the paper subtracts from each pixel a mean of its own.

    Args:
        depth: 6 n + 2; the paper's are CIFAR_DEPTHS.
        mean: Of each channel of the training set's pixels, in [0, 1].
        deviation: Their standard deviations.
        classes: How many logits there are.
    """
    blocks: list[Block] = []
    channels = 16
    for width in (16, 32, 64):
        for position in range((depth - 2) // 6):
            stride = 2 if width > 16 and position == 0 else 1
            blocks.append(padded_block(channels, width, stride))
            channels = width
    return ResNet(
        NormalizeChannels(mean, deviation),
        nn.Sequential(*_convolution(3, 16, 3), nn.ReLU()),  # (n, 16, 32, 32)
        nn.Sequential(*blocks),  # (n, 64, 8, 8)
        width=64,
        classes=classes,
    )


# The paper's table 1: the block, the width of the last stage, and blocks in each of four stages.
_STAGES: dict[int, tuple[MakeBlock, int, tuple[int, int, int, int]]] = {
    18: (basic_block, 512, (2, 2, 2, 2)),
    34: (basic_block, 512, (3, 4, 6, 3)),
    50: (bottleneck_block, 2048, (3, 4, 6, 3)),
    101: (bottleneck_block, 2048, (3, 4, 23, 3)),
    152: (bottleneck_block, 2048, (3, 8, 36, 3)),
}
IMAGENET_DEPTHS = tuple(_STAGES)


def imagenet_resnet(depth: int) -> ResNet:
    """Returns a network from uint8 (n, 224, 224, 3), red first, to the logits of 1,000 classes.

    Parameters lie as in torchvision's models of the same depths, so their counts are equal. At
    first each of a stage's n blocks adds 1 / sqrt(n) of its normalised residual (De and Smith,
    "Batch normalization biases residual blocks towards the identity function in deep networks",
    2020): otherwise random blocks amplify rounding, which 152 layers bring to 0.002 of a logit.

    Args:
        depth: One of IMAGENET_DEPTHS. The embedding has 512 numbers below 50 layers, then 2,048.
    """
    make_block, width, stages = _STAGES[depth]
    stem = nn.Sequential(
        *_convolution(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )  # (n, 64, 56, 56)
    blocks: list[Block] = []
    channels = 64
    for stage, count in enumerate(stages):
        stage_width = width >> (3 - stage)
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            block = make_block(channels, stage_width, stride)
            last = block.residual[-1]
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.constant_(last.weight, count**-0.5)
            blocks.append(block)
            channels = stage_width
    return ResNet(
        imagenet.normalize_pixels(), stem, nn.Sequential(*blocks), width, imagenet.CLASSES
    )  # blocks end in (n, width, 7, 7)


def _convolution(channels: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    """Returns a convolution that keeps h and w but for its stride, and its normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
    )


def _two_convolutions(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(channels, width, 3, stride),
        nn.ReLU(),
        *_convolution(width, width, 3),
    )


def _projection(channels: int, width: int, stride: int) -> nn.Module:
    """Returns the paper's option B: a 1 x 1 convolution where the shortcut changes the shape."""
    if channels == width and stride == 1:
        return nn.Identity()
    return _convolution(channels, width, 1, stride)
