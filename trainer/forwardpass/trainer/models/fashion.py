"""A small convolutional network in the manner of VGG (Simonyan and Zisserman, 2014), with the batch
normalisation of Ioffe and Szegedy, "Batch normalization", 2015.
"""

from torch import Tensor, nn

from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.pixels import Normalize


class FashionCnn(EmbeddingNetwork):
    """241,770 parameters: three stages of 3 x 3 convolution and pooling, and two linear layers.

    Args:
        mean: Of the training set's pixels, in [0, 1].
        deviation: Their standard deviation.
        dropout: Share of the embedding's numbers that is zeroed in training, in [0, 1).
        classes: How many logits there are.
    """

    def __init__(self, mean: float, deviation: float, dropout: float, classes: int = 10) -> None:
        super().__init__()
        self.normalize = Normalize(mean, deviation)
        self.first = _stage(1, 32)
        self.second = _stage(32, 64)
        self.third = _stage(64, 128)
        self.hidden = nn.Linear(128 * 3 * 3, 128)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(128, classes)

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to embeddings (n, 128), none of their numbers negative."""
        x = self.first(self.normalize(image))  # (n, 32, 14, 14)
        x = self.third(self.second(x))  # (n, 128, 3, 3)
        embedding: Tensor = self.dropout(self.hidden(x.flatten(1)).relu())  # (n, 128)
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to logits (n, classes)."""
        logits: Tensor = self.head(self.embed(image))
        return logits


def _stage(channels: int, width: int) -> nn.Sequential:
    """Returns what turns (n, channels, h, w) into (n, width, h / 2, w / 2)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
