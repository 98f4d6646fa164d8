"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", 2014.
"""

from torch import Tensor, nn

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.embedding import EmbeddingNetwork

# The paper's table 1, column D: convolutions of each stage, and their width.
_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class Vgg16(EmbeddingNetwork):
    """138,357,544 parameters, of which the first linear layer has 102,764,544.

    Thirteen 3 x 3 convolutions in five stages, each of which ends in pooling, and three linear
    layers (section 2.1): configuration D of table 1, without the batch normalisation that came
    later.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [imagenet.normalize_pixels()]  # (n, 3, 224, 224)
        channels = 3
        for convolutions, width in _STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))  # halves h and w: 112, 56, 28, 14, 7
        self.features = nn.Sequential(*layers)  # (n, 512, 7, 7)
        self.hidden = nn.Sequential(
            nn.Flatten(),  # (n, 25088)
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),  # section 3.1
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
        )
        self.head = nn.Linear(4096, imagenet.CLASSES)

    def embed(self, image: Tensor) -> Tensor:
        """From uint8 (n, 224, 224, 3), red first, to embeddings (n, 4096), none negative."""
        embedding: Tensor = self.hidden(self.features(image))
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, 224, 224, 3), red first, to logits (n, 1000)."""
        logits: Tensor = self.head(self.embed(image))
        return logits
