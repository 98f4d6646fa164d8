"""A recipe of your own, to be changed: tells three kinds of wine from 13 measurements.

    forwardpass-train settings ./template.py
    forwardpass-train run ./template.py epochs=60 width=32
    forwardpass-train run ./template.py --sweep width=8,32

`Settings`, `load` and `train` are needed. With `measure` the model can be quantised, too.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import mlp
from forwardpass.trainer.models.scaling import Standardize
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """What can be given as key=value; `Supervised` adds seed, limit, weight_decay and others.

    A knob is a whole number, a number, a text, or one of some texts (Literal). It has a default.
    """

    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 1e-2
    width: Annotated[int, "units of the hidden layer"] = 16


class Classifier(nn.Module):
    """What is published: the network and the softmax on it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """From float32 (n, 13) to probabilities, float32 (n, 3); the parameter names the input."""
        probabilities: Tensor = self.network(features).softmax(dim=1)
        return probabilities


def load(settings: Settings, _: Workspace) -> Dataset:
    """Returns 98 rows to learn from, 30 to choose weights by, and 50 to measure on, once."""
    wine = load_wine()
    features, kinds = wine.data.astype(np.float32), wine.target.astype(np.int64)  # (178, 13), (178)
    # Always the same rows, whatever the seed: results with different seeds can be compared.
    split = partial(train_test_split, random_state=0)
    rest, test, rest_kinds, test_kinds = split(features, kinds, test_size=50, stratify=kinds)
    train, validation, train_kinds, validation_kinds = split(
        rest, rest_kinds, test_size=30, stratify=rest_kinds
    )
    return Dataset(
        name="wine",
        origin=f"scikit-learn=={sklearn.__version__}",
        license="CC BY 4.0",
        labels=("barolo", "grignolino", "barbera"),
        train=Split(train, train_kinds),
        validation=Split(validation, validation_kinds),
        test=Split(test, test_kinds),
    ).limited(settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns metrics on the test rows, of which greater is better."""
    (probabilities,) = answer(data.test.inputs)
    return {"accuracy": accuracy(probabilities, data.test.targets)}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = nn.Sequential(
        Standardize.of(torch.from_numpy(data.train.inputs)),  # (n, 13)
        mlp([13, settings.width, 3]),  # (n, 3)
    )

    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(len(data.labels), average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.AdamW(
                network.parameters(),
                settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=SCHEDULES[settings.schedule],
            patience=settings.patience,
        ),
        settings,
        run,
    )

    classifier = Classifier(network)

    # Called for what is published, and not for the other points of a sweep.
    def evaluate() -> Evaluation:
        (probabilities,) = predict(classifier, data.test.inputs)
        return Evaluation(
            metrics=measure(partial(predict, classifier), data),
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    probabilities.argmax(axis=1), data.test.targets, data.labels
                ),
            },
        )

    return Trained(
        description="Tells which of three cultivars a wine is of, from 13 measurements.",
        reference="Forina et al., PARVUS, 1988 (the data)",
        module=classifier,
        inputs={"features": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={"probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES},
        # Real rows: with torch's answers they become the golden data, which ONNX Runtime
        # has to agree with before anything is published, and servers when they load it.
        golden_inputs={"features": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
