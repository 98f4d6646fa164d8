"""A network that learns to draw what it sees from few numbers: Hinton and Salakhutdinov, "Reducing
the dimensionality of data with neural networks", 2006, here with convolutions.
"""

from torch import Tensor, nn

from forwardpass.trainer.models.reconstruction import Reconstructor

# Grey levels that are one unit within the network.
_UNIT = 64


class Autoencoder(Reconstructor):
    """Four convolutions halve h and w each, a linear layer makes the embedding, and back.

    Args:
        mean: The mean training image, float32 (112, 92, 1): what is drawn is added to it.
        width: Numbers in the embedding.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),  # (n, 16, 56, 46)
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),  # (n, 32, 28, 23)
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),  # (n, 64, 14, 12)
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),  # (n, 128, 7, 6)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * 7 * 6, width),
        )
        self.decoder = nn.Sequential(
            nn.Linear(width, 128 * 7 * 6),
            nn.ReLU(),
            nn.Unflatten(1, (128, 7, 6)),
            nn.Upsample((14, 12)),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((28, 23)),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((56, 46)),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((112, 92)),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 or float (n, 112, 92, 1) in 0..255 to embeddings (n, width)."""
        x = (image.float() - self.mean) / _UNIT
        embedding: Tensor = self.encoder(x.permute(0, 3, 1, 2))
        # In grey levels, as the coordinates of a principal component analysis are.
        return embedding * _UNIT

    def draw(self, embedding: Tensor) -> Tensor:
        """From embeddings (n, width) to images, float32 (n, 112, 92, 1)."""
        offsets: Tensor = self.decoder(embedding / _UNIT)  # (n, 1, 112, 92)
        return self.mean + offsets.permute(0, 2, 3, 1) * _UNIT
