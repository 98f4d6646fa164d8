"""Classifiers whose last layer is linear in a vector that may be had too."""

from torch import Tensor, nn


class EmbeddingNetwork(nn.Module):
    """A network that gives logits by way of an embedding; its `forward` is head(embed(image)).

    Attributes:
        head: From embeddings (n, width) to logits (n, classes).
    """

    head: nn.Linear

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to embeddings (n, width): what the layer before the head gives.

        In training they have the head's dropout, where the network has one.
        """
        raise NotImplementedError


class LogitsAndEmbedding(nn.Module):
    """What is published: both outputs, the embedding computed once.

    Args:
        network: In evaluation mode when it is exported.
    """

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From uint8 (n, h, w, c) to logits (n, classes) and embeddings (n, width)."""
        embedding = self.network.embed(image)
        logits: Tensor = self.network.head(embedding)
        return logits, embedding


class ProbabilitiesAndEmbedding(nn.Module):
    """The same with the softmax of the logits.

    Args:
        network: In evaluation mode when it is exported.
    """

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From uint8 (n, h, w, c) to probabilities (n, classes) and embeddings (n, width)."""
        embedding = self.network.embed(image)
        logits: Tensor = self.network.head(embedding)
        return logits.softmax(dim=1), embedding
