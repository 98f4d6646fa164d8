"""A network for larger images than callers have, with the enlarging inside the graph."""

from torch import Tensor
from torch.nn import functional

from forwardpass.trainer.models.embedding import EmbeddingNetwork


class Enlarged(EmbeddingNetwork):
    """The network's answers to images that are enlarged first, bilinearly.

    Args:
        network: Takes images of any extents, uint8 or float (n, h, w, c) in 0..255.
        extent: Height and width to enlarge to, in pixels.
    """

    def __init__(self, network: EmbeddingNetwork, extent: int) -> None:
        super().__init__()
        self.network = network
        self.head = network.head
        self.extent = extent

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to the network's embeddings (n, width)."""
        x = image.permute(0, 3, 1, 2).float()  # (n, c, h, w)
        x = functional.interpolate(x, (self.extent, self.extent), mode="bilinear")
        return self.network.embed(x.permute(0, 2, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, c) to the network's logits (n, classes)."""
        logits: Tensor = self.head(self.embed(image))
        return logits
