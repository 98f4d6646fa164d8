"""A small residual network: He, Zhang, Ren and Sun, "Deep residual learning for image
recognition", 2015.
"""

from torch import Tensor, nn

from forwardpass.trainer.models.pixels import Normalize


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them: relu(F(x) + x).

    Args:
        channels: Of the input.
        width: Of the output.
        stride: Of the first convolution; where it is not 1, or the widths differ, the shortcut is
            a 1 x 1 convolution (the paper's option B).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """From (n, channels, h, w) to (n, width, h / stride, w / stride)."""
        added: Tensor = self.residual(x) + self.shortcut(x)
        return added.relu()


class ResNet(nn.Module):
    """Logits of a digit, by way of a 64-number embedding of it.

    Args:
        mean: Of the training set's pixels, in [0, 1].
        deviation: Their standard deviation.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.normalize = Normalize(mean, deviation)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            BasicBlock(16, 16, stride=1),
            BasicBlock(16, 32, stride=2),
            BasicBlock(32, 64, stride=2),
        )
        self.head = nn.Linear(64, 10)

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to embeddings (n, 64), none of them negative."""
        x = self.stem(self.normalize(image))  # (n, 16, 14, 14)
        x = self.blocks(x)  # (n, 64, 4, 4)
        # A mean over axes is deterministic everywhere; adaptive pooling is not on a GPU.
        embedding: Tensor = x.mean(dim=(2, 3))  # (n, 64)
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, 28, 28, 1) to logits (n, 10)."""
        logits: Tensor = self.head(self.embed(image))
        return logits


class LogitsAndEmbedding(nn.Module):
    """What the recipe publishes: both outputs, the embedding computed once.

    Args:
        network: The trained one.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From uint8 (n, 28, 28, 1) to logits (n, 10) and embeddings (n, 64)."""
        embedding = self.network.embed(image)
        logits: Tensor = self.network.head(embedding)
        return logits, embedding
