"""From pixels as callers send them to what a convolution wants, inside the graph."""

from torch import Tensor, nn


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
