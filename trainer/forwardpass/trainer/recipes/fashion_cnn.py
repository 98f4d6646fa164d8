"""fashion-cnn: a convolutional network that tells articles of clothing apart, and embeds them."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import fashion_mnist
from forwardpass.trainer.data.augment import crop_and_flip
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.embedding import ProbabilitiesAndEmbedding
from forwardpass.trainer.models.fashion import FashionCnn
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.pictures import first_layer_filters, worst_mistakes
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.settings import BatchSize, Epochs, Patience, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of fashion-cnn."""

    epochs: Epochs = 12
    batch_size: BatchSize = 128
    learning_rate: PeakRate = 3e-3
    dropout: Annotated[float, "share of the embedding that is zeroed in training"] = 0.3
    shift: Annotated[
        int, "pixels that a training image is moved by at most; half of them are mirrored"
    ] = 2
    patience: Patience = 0


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return fashion_mnist.load(workspace.cache, workspace.reporter, settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on the test rows."""
    probabilities, _ = answer(data.test.inputs)
    return {"accuracy": accuracy(probabilities, data.test.targets)}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = FashionCnn(fashion_mnist.MEAN, fashion_mnist.DEVIATION, settings.dropout)

    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(10, average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.AdamW(network.parameters(), settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            augment=partial(crop_and_flip, border=settings.shift, fill=[0]),
            patience=settings.patience,
        ),
        settings,
        run,
    )

    published = ProbabilitiesAndEmbedding(network)

    def evaluate() -> Evaluation:
        probabilities, _ = predict(published, data.test.inputs)
        filters = network.first.get_parameter("0.weight")
        return Evaluation(
            metrics=measure(partial(predict, published), data),
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    probabilities.argmax(axis=1), data.test.targets, data.labels
                ),
                "worst-mistakes.png": worst_mistakes(
                    data.test.inputs, probabilities, data.test.targets, data.labels
                ),
                "first-layer-filters.png": first_layer_filters(filters.detach().numpy()),
            },
        )

    return Trained(
        description="Tells which of ten articles of clothing a 28 x 28 greyscale image "
        "shows (light on black), and embeds it in 128 numbers.",
        reference='Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for '
        'benchmarking machine learning algorithms", 2017',
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES,
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
        },
        golden_inputs={"image": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-4),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
