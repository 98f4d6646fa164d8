"""transfer: cats and dogs told apart by features that a network learned on other photographs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch

from forwardpass.trainer.data import cifar10
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.imagenet_weights import PACKAGE
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.embedding import EmbeddingNetwork, LogitsAndEmbedding
from forwardpass.trainer.models.enlarged import Enlarged
from forwardpass.trainer.models.initial import initialize, settle
from forwardpass.trainer.models.keras_resnet import keras_resnet50
from forwardpass.trainer.models.resnet import ResNet
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.embedding import embedding_map
from forwardpass.trainer.plots.labelled import accuracy_by_labels
from forwardpass.trainer.plots.pictures import best_guesses
from forwardpass.trainer.pretrained import resnet50
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import make_fabric
from forwardpass.trainer.training.head import fit_head
from forwardpass.trainer.training.seeds import generator, seed_everything
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

LABELS = ("cat", "dog")
_CLASSES = [cifar10.LABELS.index(label) for label in LABELS]
_FEWER = (10, 30, 100)  # labelled images of each class that heads are fitted to as well
_BATCH = 50  # images that are embedded at once, after which their features are kept
_SETTLING = 64  # training images that random weights get their statistics from
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of transfer."""

    labels: Annotated[int, "labelled images of each class to learn from, drawn by the seed"] = 300
    draws: Annotated[int, "how often fewer of them are drawn, to see how much the draw matters"] = 5
    extent: Annotated[int, "pixels, height and width that images of 32 x 32 are enlarged to"] = 160
    decay: Annotated[float, "weight decay of the head, above 0; the more, the simpler it is"] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decay:
            raise SettingError("decay=0: give a number above 0, such as 0.001")


@dataclass(frozen=True, slots=True)
class Data:
    """The network, with the weights that others trained, and what the head learns from."""

    network: ResNet
    photos: Dataset

    def digest(self) -> str:
        """Returns the digests of the photographs and of the weights' package."""
        return self.photos.digest() + PACKAGE.sha256

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of the photographs."""
        return self.photos.source()


def load(settings: Settings, workspace: Workspace) -> Data:
    """Returns the network and the photographs."""
    photos = load_photos(settings, workspace)
    return Data(resnet50(workspace.cache, workspace.reporter), photos)


def load_photos(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns cats and dogs of CIFAR-10, uint8 (rows, 32, 32, 3), cats of class 0 and dogs of 1.

    As many of each class to train on as the settings say, a cat and a dog in turn; all 2,000 that
    the set has to test on.
    """
    full = cifar10.load(workspace.cache, workspace.reporter)
    order = torch.randperm(len(full.train), generator=generator(settings.seed, "labels")).numpy()
    drawn = [order[full.train.targets[order] == index][: settings.labels] for index in _CLASSES]
    return replace(
        full,
        labels=LABELS,
        train=_rows(full.train, np.stack(drawn, axis=1).ravel()),
        validation=full.validation.head(0),  # nothing is chosen by it
        test=_rows(full.test, np.flatnonzero(np.isin(full.test.targets, _CLASSES))),
    ).limited(settings.limit)


def _rows(split: Split, rows: Array) -> Split:
    return Split(split.inputs[rows], np.searchsorted(_CLASSES, split.targets[rows]))


def train(settings: Settings, data: Data, run: Run) -> Trained:
    """Fits the head to the network's features, and describes both as one model."""
    network, photos = data.network, data.photos
    embedder = Embedder(photos, settings, run)
    known = embedder.embed(network, "trained")
    random = embedder.embed(_random(photos, settings), "random")
    network.head = fit_head(known.train.inputs, known.train.targets, settings.decay)

    def evaluate() -> Evaluation:
        features = {
            "ImageNet's features": known,
            "random weights": random,
            "raw pixels": _flat(photos),
        }
        curves = {name: _learning_curve(each, settings) for name, each in features.items()}
        every = len(photos.train) // 2
        learned, at_random, by_pixels = (curve[every][0] for curve in curves.values())
        (logits,) = predict(network.head, known.test.inputs)
        probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
        return Evaluation(
            metrics={
                "accuracy": learned,
                "random_weights_accuracy": at_random,
                "raw_pixels_accuracy": by_pixels,
            },
            plots={
                "learning-curves.png": accuracy_by_labels(
                    curves, 0.5, "A linear classifier on three kinds of features"
                ),
                "confusion-matrix.png": confusion_matrix(
                    logits.argmax(axis=1), photos.test.targets, photos.labels
                ),
                "embedding-map.png": embedding_map(
                    known.test.inputs, known.test.targets, photos.labels
                ),
                "photos.png": best_guesses(
                    photos.test.inputs[:_SHOWN],
                    probabilities[:_SHOWN],
                    photos.test.targets[:_SHOWN],
                    photos.labels,
                ),
            },
        )

    return Trained(
        description="Tells whether a small photograph shows a cat or a dog, by the "
        "features of a ResNet-50 that was trained on ImageNet, and embeds it in them.",
        reference='Donahue, Jia, Vinyals, Hoffman, Zhang, Tzeng and Darrell, "DeCAF: A '
        'deep convolutional activation feature for generic visual recognition", 2014',
        module=LogitsAndEmbedding(Enlarged(network, settings.extent)),
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


def _random(data: Dataset, settings: Settings) -> EmbeddingNetwork:
    """Returns the same architecture with random weights."""
    seed_everything(settings.seed, "weights")
    network = initialize(keras_resnet50())
    settle(Enlarged(network, settings.extent), torch.from_numpy(data.train.inputs[:_SETTLING]))
    return network


@dataclass(frozen=True, slots=True)
class Embedder:
    """Embeds the images of a run, which goes on from what is in its folder if it was killed."""

    data: Dataset
    settings: Settings
    run: Run

    def embed(self, network: EmbeddingNetwork, name: str) -> Dataset:
        """Returns the data with the network's embeddings for inputs.

        Args:
            network: In evaluation mode when it returns, on the CPU.
            name: What its weights are, in a word.

        Raises:
            RunError: The features cannot be written, or those in the folder do not fit.
        """
        fabric = make_fabric(self.settings)
        enlarged = Enlarged(network, self.settings.extent).eval().to(fabric.device)
        images = torch.from_numpy(np.concatenate([self.data.train.inputs, self.data.test.inputs]))
        state = {"features": torch.empty(0, network.head.in_features)}
        if self.run.load(fabric, name, state):
            done = len(state["features"])
            self.run.reporter.note(f"{done} of {len(images)} images are in {self.run.folder}")
        starts = range(len(state["features"]), len(images), _BATCH)
        for start in self.run.reporter.items(starts, f"embedding, {name} weights"):
            batch = images[start : start + _BATCH].to(fabric.device)
            with torch.inference_mode():
                features = enlarged.embed(batch).cpu()
            state["features"] = torch.cat([state["features"], features])
            self.run.save(fabric, name, state)
        enlarged.to("cpu")
        return _with_features(self.data, state["features"].numpy())


def _flat(data: Dataset) -> Dataset:
    """Returns the data with pixels for features, 3,072 numbers an image."""
    images = np.concatenate([data.train.inputs, data.test.inputs])
    return _with_features(data, images.reshape(len(images), -1).astype(np.float32))


def _with_features(data: Dataset, features: Array) -> Dataset:
    count = len(data.train)
    return replace(
        data,
        train=Split(features[:count], data.train.targets),
        test=Split(features[count:], data.test.targets),
    )


def _learning_curve(data: Dataset, settings: Settings) -> Mapping[int, list[float]]:
    """Returns the test accuracies of heads that were fitted to so many labels of each class."""
    every = len(data.train) // 2
    curve: dict[int, list[float]] = {}
    for labels in (*(count for count in _FEWER if count < every), every):
        curve[labels] = []
        for draw in range(settings.draws if labels < every else 1):
            draws = generator(settings.seed, "draw", draw)
            # Cats and dogs take turns, so that each has the same share of any pairs.
            pairs = torch.randperm(every, generator=draws)[:labels].numpy()
            rows = np.concatenate([2 * pairs, 2 * pairs + 1])
            head = fit_head(data.train.inputs[rows], data.train.targets[rows], settings.decay)
            (logits,) = predict(head, data.test.inputs)
            curve[labels].append(accuracy(logits, data.test.targets))
    return curve
