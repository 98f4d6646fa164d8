"""A classifier's last layer, by itself."""

from torch import Tensor, nn


class Head(nn.Module):
    """What is published of a linear layer that stands behind a model that embeds.

    Args:
        head: From embeddings (n, width) to logits (n, classes).
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """From embeddings (n, width) to probabilities (n, classes) and the same embeddings."""
        logits: Tensor = self.head(features)
        return logits.softmax(dim=1), features
