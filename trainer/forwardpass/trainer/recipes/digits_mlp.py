"""digits-mlp: a multi-layer perceptron that reads 8 x 8 digits. Needs no fetch; takes seconds."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import digits
from forwardpass.trainer.data.augment import jitter
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import mlp
from forwardpass.trainer.models.pixels import Classifier, Normalize
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.pictures import worst_mistakes
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# Of the training images' pixels, in [0, 1].
MEAN, DEVIATION = 0.305, 0.376


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """Knobs of digits-mlp."""

    epochs: int = 80
    batch_size: int = 32
    learning_rate: float = 3e-3
    width: Annotated[int, "units in each of the two hidden layers"] = 128
    dropout: Annotated[float, "share of hidden values zeroed in training"] = 0.2
    shift: Annotated[float, "pixels that a training image is moved by at most"] = 0.5
    degrees: Annotated[float, "degrees that a training image is turned by at most"] = 8
    scale: Annotated[float, "share that a training image grows or shrinks by at most"] = 0.08
    average: Annotated[float, "decay a step of the weights' moving average, which is published"] = (
        0.99
    )
    patience: int = 20


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return digits.load(workspace.cache, workspace.reporter, settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on the test rows."""
    (probabilities,) = answer(data.test.inputs)
    return {"accuracy": accuracy(probabilities, data.test.targets)}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = nn.Sequential(
        Normalize(MEAN, DEVIATION),  # (n, 1, 8, 8)
        nn.Flatten(),  # (n, 64)
        mlp([64, settings.width, settings.width, 10], settings.dropout),  # (n, 10)
    )

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
            average=settings.average,
            patience=settings.patience,
        ),
        settings,
        run,
    )

    classifier = Classifier(network)

    def evaluate() -> Evaluation:
        (probabilities,) = predict(classifier, data.test.inputs)
        return Evaluation(
            metrics=measure(partial(predict, classifier), data),
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    probabilities.argmax(axis=1), data.test.targets, data.labels
                ),
                "worst-mistakes.png": worst_mistakes(
                    data.test.inputs, probabilities, data.test.targets, data.labels
                ),
            },
        )

    return Trained(
        description="Tells which digit, 0 to 9, an 8 x 8 greyscale image shows "
        "(light strokes on black).",
        reference="Rumelhart, Hinton and Williams, "
        '"Learning representations by back-propagating errors", 1986',
        module=classifier,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={"probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES},
        golden_inputs={"image": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
