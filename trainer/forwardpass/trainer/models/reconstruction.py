"""Networks that put an image in few numbers, and draw it again from these alone."""

from torch import Tensor, nn


class Reconstructor(nn.Module):
    """From images to embeddings, and from embeddings to images."""

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 or float (n, h, w, 1) in 0..255 to embeddings (n, width)."""
        raise NotImplementedError

    def draw(self, embedding: Tensor) -> Tensor:
        """From embeddings (n, width) to images, float32 (n, h, w, 1), about 0..255."""
        raise NotImplementedError


class EmbeddingAndReconstruction(nn.Module):
    """What is published: both, the reconstruction as pixels.

    Args:
        network: In evaluation mode when it is exported.
    """

    def __init__(self, network: Reconstructor) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From uint8 (n, h, w, 1) to embeddings (n, width) and uint8 (n, h, w, 1)."""
        embedding = self.network.embed(image)
        return embedding, self.network.draw(embedding).round().clamp(0, 255).byte()
