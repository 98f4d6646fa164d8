"""mnist-cnn: LeNet-5 on all of MNIST, with images turned and shifted a little in training."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import mnist
from forwardpass.trainer.data.augment import jitter
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.lenet import LeNet
from forwardpass.trainer.models.pixels import Classifier
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.pictures import first_layer_filters, worst_mistakes
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """Knobs of mnist-cnn."""

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 3e-3
    dropout: Annotated[float, "share of the last hidden values zeroed in training"] = 0.0
    shift: Annotated[float, "pixels that a training image is moved by at most"] = 1.5
    degrees: Annotated[float, "degrees that a training image is turned by at most"] = 10
    scale: Annotated[float, "share that a training image grows or shrinks by at most"] = 0.1


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return mnist.load(workspace.cache, workspace.reporter, settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on the test rows."""
    (probabilities,) = answer(data.test.inputs)
    return {"accuracy": accuracy(probabilities, data.test.targets)}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = LeNet(mnist.MEAN, mnist.DEVIATION, settings.dropout)

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
                "first-layer-filters.png": first_layer_filters(network.c1.weight.detach().numpy()),
            },
        )

    return Trained(
        description="Tells which handwritten digit, 0 to 9, a 28 x 28 greyscale image "
        "shows (light strokes on black).",
        reference='LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to '
        'document recognition", 1998',
        module=classifier,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={"probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES},
        golden_inputs={"image": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
