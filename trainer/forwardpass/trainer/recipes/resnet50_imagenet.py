"""resnet50-imagenet: a network that others trained on ImageNet, made ready to serve."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from forwardpass.trainer.data import imagenet_photos
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.data.imagenet_weights import PACKAGE
from forwardpass.trainer.evaluation import accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.embedding import LogitsAndEmbedding
from forwardpass.trainer.models.resnet import ResNet
from forwardpass.trainer.plots.first_layer import colour_filters
from forwardpass.trainer.plots.pictures import best_guesses
from forwardpass.trainer.pretrained import resnet50
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """resnet50-imagenet has no knobs of its own, and the seed changes nothing."""


@dataclass(frozen=True, slots=True)
class Data:
    """The network, with the weights that others trained, and photographs to look at it by."""

    network: ResNet
    photos: Dataset

    def digest(self) -> str:
        """Returns the SHA-256 of the weights' package."""
        return PACKAGE.sha256

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of what the weights were learned from."""
        return model_card_pb2.DataSource(
            name="ImageNet",
            origin=PACKAGE.requirement,
            license="MIT (the package; it states none for the weights)",
            sha256=PACKAGE.sha256,
            test_rows=len(self.photos.test),
        )


def load(settings: Settings, workspace: Workspace) -> Data:
    """Returns the network and the photographs."""
    photos = imagenet_photos.load(workspace.cache, workspace.reporter, settings.limit)
    return Data(resnet50(workspace.cache, workspace.reporter), photos)


def train(_settings: Settings, data: Data, _run: Run) -> Trained:
    """Describes the network, which is trained already."""
    network, photos = data.network, data.photos
    published = LogitsAndEmbedding(network)

    def evaluate() -> Evaluation:
        logits, _ = predict(published, photos.test.inputs)
        probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
        shown = photos.test.inputs[0]
        with torch.inference_mode():
            # Convolution, normalisation and ReLU; the pooling after them would halve the maps.
            first = nn.Sequential(network.normalize, *list(network.stem.children())[:3])
            maps = first(torch.from_numpy(shown[None]))
        return Evaluation(
            metrics={
                "top_1_accuracy": accuracy(logits, photos.test.targets),
                "top_5_accuracy": _top_5_accuracy(logits, photos.test.targets),
            },
            plots={
                "photos.png": best_guesses(
                    photos.test.inputs, probabilities, photos.test.targets, photos.labels
                ),
                "first-layer.png": colour_filters(
                    network.get_parameter("stem.0.weight").detach().numpy(),
                    shown,
                    maps[0].numpy(),
                ),
            },
        )

    return Trained(
        description="Tells which of ImageNet's 1,000 classes a photograph shows, and embeds it "
        "in 2,048 numbers that serve to tell other things apart too.",
        reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", '
        "2015, with the weights of Keras Applications",
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "logits": model_card_pb2.TENSOR_ROLE_LOGITS,
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
        },
        golden_inputs={"image": photos.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-3),
        labels=photos.labels,
        evaluate=evaluate,
    )


def _top_5_accuracy(scores: Array, targets: Array) -> float:
    """Returns the share of rows (n, classes) whose target (n) has one of the five greatest."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return float(np.mean((best == targets[:, None]).any(axis=1)))
