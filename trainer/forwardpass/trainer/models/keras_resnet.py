"""ResNet-50 as Keras has it, so that weights trained there fit.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, as its authors
published it: a bottleneck's stride is its first 1 x 1 convolution's. Keras adds a bias to every
convolution, which the normalisation after it makes needless, and an epsilon of 0.001.
"""

from collections.abc import Iterator

from torch import nn

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.pixels import NormalizeChannels
from forwardpass.trainer.models.resnet import Block, ResNet

# Blocks in each of four stages, and the width of the first one's output: table 1 of the paper.
_STAGES, _WIDTH = (3, 4, 6, 3), 256
# Of the training pixels in 0..255, which are shifted and not scaled: red, green, blue.
_MEAN = (123.68, 116.779, 103.939)


def _bottleneck(channels: int, width: int, stride: int) -> Block:
    """Returns a block that narrows to a quarter of its width, convolves 3 x 3, and widens again.

    Args:
        channels: Of the input.
        width: Of the output; where it differs, the shortcut is a 1 x 1 convolution.
        stride: Of the first convolution and of the shortcut.
    """
    narrow = width // 4
    residual = nn.Sequential(
        *_convolution(channels, narrow, 1, stride),
        nn.ReLU(),
        *_convolution(narrow, narrow, 3),
        nn.ReLU(),
        *_convolution(narrow, width, 1),
    )
    shortcut = nn.Identity() if channels == width else _convolution(channels, width, 1, stride)
    return Block(residual, shortcut)


def keras_resnet50() -> ResNet:
    """Returns a network from uint8 (n, h, w, 3), red first, to the logits of 1,000 classes.

    It was trained on 224 x 224 pixels; the embedding, 2,048 numbers, is a mean over h and w.
    """
    stem = nn.Sequential(
        *_convolution(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
    )  # (n, 64, h / 4, w / 4)
    blocks: list[Block] = []
    channels = 64
    for stage, count in enumerate(_STAGES):
        width = _WIDTH << stage
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            blocks.append(_bottleneck(channels, width, stride))
            channels = width
    normalize = NormalizeChannels([mean / 255 for mean in _MEAN], [1 / 255] * 3)
    return ResNet(normalize, stem, nn.Sequential(*blocks), channels, imagenet.CLASSES)


def keras_layers(network: ResNet) -> Iterator[tuple[str, nn.Module]]:
    """Yields each layer of `keras_resnet50` that has weights, with the name Keras gives it."""
    assert isinstance(network.stem, nn.Sequential)
    yield "conv1", network.stem[0]
    yield "bn_conv1", network.stem[1]
    blocks = network.blocks.children()
    for stage, count in enumerate(_STAGES, start=2):
        for letter in "abcdef"[:count]:
            block = next(blocks)
            assert isinstance(block, Block)
            pairs = {"2a": block.residual[:2], "2b": block.residual[3:5], "2c": block.residual[6:]}
            if isinstance(block.shortcut, nn.Sequential):
                pairs["1"] = block.shortcut
            for branch, pair in pairs.items():
                convolution, normalization = pair.children()
                yield f"res{stage}{letter}_branch{branch}", convolution
                yield f"bn{stage}{letter}_branch{branch}", normalization
    yield "fc1000", network.head


def _convolution(channels: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    """Returns a convolution that keeps h and w but for its stride, and its normalisation."""
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, padding=size // 2),
        nn.BatchNorm2d(width, eps=1e-3),
    )
