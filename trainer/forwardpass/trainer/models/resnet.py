"""Residual networks: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015.

`mnist_resnet` is small; `imagenet_resnet` makes the paper's 18, 34, 50, 101 and 152 layers.
"""

from collections.abc import Callable

from torch import Tensor, nn

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.pixels import Normalize


class Block(nn.Module):
    """Convolutions and a shortcut around them: relu(F(x) + x).

    Args:
        residual: F, from (n, channels, h, w) to (n, width, h / stride, w / stride); ends in a
            normalisation.
        channels: Of the input.
        width: Of the output.
        stride: Of the residual; where it is not 1, or the widths differ, the shortcut is a 1 x 1
            convolution (the paper's option B).
    """

    def __init__(self, residual: nn.Sequential, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = _convolution(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, width, h / stride, w / stride)."""
        added: Tensor = self.residual(x) + self.shortcut(x)
        return added.relu()


MakeBlock = Callable[[int, int, int], Block]


def basic_block(channels: int, width: int, stride: int) -> Block:
    """Returns a block of two 3 x 3 convolutions, the first of which has the stride."""
    residual = nn.Sequential(
        *_convolution(channels, width, 3, stride),
        nn.ReLU(),
        *_convolution(width, width, 3),
    )
    return Block(residual, channels, width, stride)


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
    return Block(residual, channels, width, stride)


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
