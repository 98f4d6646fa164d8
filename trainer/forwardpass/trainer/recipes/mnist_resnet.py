"""mnist-resnet: a residual network that gives logits, and embeddings in which neighbours agree."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import mnist
from forwardpass.trainer.data.augment import jitter
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.embedding import LogitsAndEmbedding
from forwardpass.trainer.models.resnet import mnist_resnet
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.embedding import embedding_map
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# Training images whose embeddings test images are compared with, the first ones.
_KNN_ROWS, _NEIGHBOURS = 10_000, 5
_MAP_ROWS = 3_000


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """Knobs of mnist-resnet."""

    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 4e-3
    shift: Annotated[float, "pixels that a training image is moved by at most"] = 1.5
    degrees: Annotated[float, "degrees that a training image is turned by at most"] = 10
    scale: Annotated[float, "share that a training image grows or shrinks by at most"] = 0.1


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return mnist.load(workspace.cache, workspace.reporter, settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on the test rows, and the share of them whose five nearest training
    embeddings elect their class.
    """
    known = data.train.head(_KNN_ROWS)
    _, known_embeddings = answer(known.inputs)
    logits, embeddings = answer(data.test.inputs)
    neighbours = KNeighborsClassifier(_NEIGHBOURS).fit(known_embeddings, known.targets)
    return {
        "accuracy": accuracy(logits, data.test.targets),
        "knn_accuracy": float(neighbours.score(embeddings, data.test.targets)),
    }


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = mnist_resnet(mnist.MEAN, mnist.DEVIATION)

    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(10, average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.AdamW(
                network.parameters(),
                settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=SCHEDULES[settings.schedule],
            augment=partial(
                jitter, shift=settings.shift, degrees=settings.degrees, scale=settings.scale
            ),
            patience=settings.patience,
        ),
        settings,
        run,
    )

    published = LogitsAndEmbedding(network)

    def evaluate() -> Evaluation:
        logits, embeddings = predict(published, data.test.inputs)
        return Evaluation(
            metrics=measure(partial(predict, published), data),
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    logits.argmax(axis=1), data.test.targets, data.labels
                ),
                "embedding-map.png": embedding_map(
                    embeddings[:_MAP_ROWS], data.test.targets[:_MAP_ROWS], data.labels
                ),
            },
        )

    return Trained(
        description="Embeds a 28 x 28 greyscale image of a handwritten digit in 64 "
        "numbers, and tells which digit it is.",
        reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015',
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "logits": model_card_pb2.TENSOR_ROLE_LOGITS,
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
        },
        golden_inputs={"image": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-4),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
