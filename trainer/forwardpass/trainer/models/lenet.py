"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", 1998.
"""

from torch import Tensor, nn
from torch.nn import functional

from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.pixels import Normalize


class LeNet(EmbeddingNetwork):
    """61,706 parameters. ReLU and max pooling stand where the paper has tanh and trained averages,
    and C3 sees all six maps.

    Args:
        mean: Of the training set's pixels, in [0, 1].
        deviation: Their standard deviation.
        dropout: Share of what F6 gives that is zeroed in training, in [0, 1).
        classes: How many logits there are.
    """

    def __init__(
        self, mean: float, deviation: float, dropout: float = 0.0, classes: int = 10
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, deviation)
        self.c1 = nn.Conv2d(1, 6, 5)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Linear(400, 120)
        self.f6 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(84, classes)
        # What black becomes: the paper's border of two pixels is background.
        self.black = -mean / deviation

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to what F6 gives (n, 84), none of it negative."""
        x = self.normalize(image)  # (n, 1, 28, 28)
        x = functional.pad(x, (2, 2, 2, 2), value=self.black)  # (n, 1, 32, 32)
        x = functional.max_pool2d(self.c1(x).relu(), 2)  # (n, 6, 14, 14)
        x = functional.max_pool2d(self.c3(x).relu(), 2)  # (n, 16, 5, 5)
        x = self.c5(x.flatten(1)).relu()  # (n, 120)
        embedding: Tensor = self.f6(x).relu()  # (n, 84)
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to logits (n, classes)."""
        logits: Tensor = self.head(self.dropout(self.embed(image)))
        return logits
