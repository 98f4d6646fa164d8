"""From pixels as callers send them to what a convolution wants, inside the graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Normalize(nn.Module):
    """Moves channels to the front, and shifts and scales pixels to mean 0 and deviation 1.

    Args:
        mean: Of the training set's pixels, in [0, 1].
        deviation: Their standard deviation, in the same unit.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 or float (n, h, w, c) in 0..255 to float32 (n, c, h, w)."""
        image = image.permute(0, 3, 1, 2).float()  # (n, c, h, w)
        return (image / 255 - self.mean) / self.deviation


class NormalizeChannels(nn.Module):
    """Does what `Normalize` does, with a mean and a deviation for each channel.

    As a batch normalisation of known statistics. ONNX Runtime's optimiser moves the channels to the
    last axis before plain arithmetic, where numbers for three channels are slow to apply: ResNet-18
    in int8 answers a fifth more images this way.

    Args:
        mean: Of each channel of the training set's pixels, in [0, 1].
        deviation: Their standard deviations, in the same unit.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        # Constants of the data, of which a checkpoint needs no copy.
        self.register_buffer("mean", torch.tensor(mean) * 255, persistent=False)  # (c,)
        variance = (torch.tensor(deviation) * 255).square()  # (c,)
        self.register_buffer("variance", variance, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 or float (n, h, w, c) in 0..255 to float32 (n, c, h, w)."""
        image = image.permute(0, 3, 1, 2).float()  # (n, c, h, w)
        return functional.batch_norm(image, self.mean, self.variance, eps=0.0)


class Classifier(nn.Module):
    """What a classification recipe publishes: the network and the softmax on it.

    Args:
        network: From uint8 (n, h, w, c) to logits (n, classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to probabilities, float32 (n, classes)."""
        probabilities: Tensor = self.network(image).softmax(dim=1)
        return probabilities
