"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional
neural networks", 2012, in the form of Krizhevsky, "One weird trick for parallelizing convolutional
neural networks", 2014.
"""

from torch import Tensor, nn

from forwardpass.trainer.models import imagenet
from forwardpass.trainer.models.embedding import EmbeddingNetwork


class AlexNet(EmbeddingNetwork):
    """61,100,840 parameters: five convolutions and three linear layers (2012, section 3.5).

    The paper of 2012 cut the network in two, for two GPUs (section 3.2), with 96, 256, 384, 384 and
    256 maps, and normalised responses (section 3.3). That of 2014 has one tower of 64, 192, 384,
    256 and 256 maps without the normalisation: this one, with torchvision's parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            imagenet.normalize_pixels(),  # (n, 3, 224, 224)
            nn.Conv2d(3, 64, 11, stride=4, padding=2),  # (n, 64, 55, 55)
            nn.ReLU(),  # section 3.1
            nn.MaxPool2d(3, stride=2),  # (n, 64, 27, 27); windows overlap, section 3.4
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (n, 192, 13, 13)
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (n, 256, 6, 6)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(),  # (n, 9216)
            nn.Dropout(),  # section 4.2
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
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
