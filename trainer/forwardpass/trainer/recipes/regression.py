"""regression: a line, a cubic and a network of a million parameters through the same points.

The points are the days of two years in Seattle: from the day of the year to its highest
temperature. Another year chooses the network's weights, and a fourth tells how good the three are.
Then the network gets 24 of those days only, to see it learn them by heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.regression import R2Score

from forwardpass.trainer.data import seattle_weather
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.evaluation import predict, r2, rmse
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import mlp
from forwardpass.trainer.models.polynomial import polynomial
from forwardpass.trainer.models.scaling import Rescale, Standardize
from forwardpass.trainer.plots.curves import loss_curves
from forwardpass.trainer.plots.fits import Course, fitted, overfitting
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.fitted import Epoch, Fitted
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import generator, seed_everything
from forwardpass.trainer.training.settings import BatchSize, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# Five hidden layers of 500 units, 1,003,501 parameters; its last layer has no ReLU, as frost has a
# minus sign.
WIDTHS = [1, 500, 500, 500, 500, 500, 1]
# An epoch is so many passes: over all the days, and over the few.
_PASSES, _PASSES_OF_FEW = 5, 50
# What the curves are drawn over.
DAYS = np.arange(1, 367, dtype=np.float32)[:, None]


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of regression."""

    epochs: Annotated[int, "of five passes over the training days"] = 20
    batch_size: BatchSize = 32
    learning_rate: PeakRate = 0.05
    few: Annotated[int, "days that the network learns by heart"] = 24
    few_epochs: Annotated[int, "of fifty passes, each a single step"] = 30
    weight_decay: Annotated[float, "keeps the network from learning them by heart"] = 0.03
    patience: Annotated[
        int, "epochs without a better validation year before stopping; 0 for never"
    ] = 3


class Curves(nn.Module):
    """What is published: three functions of the day of the year."""

    def __init__(self, line: nn.Module, cubic: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.line = line
        self.cubic = cubic
        self.network = network

    def forward(self, day: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From float32 (n, 1) to three temperatures, each float32 (n, 1), in degrees Celsius."""
        return self.line(day), self.cubic(day), self.network(day)


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return seattle_weather.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Fits the three curves, and describes them."""
    fitter = Fitter(data, settings, run)
    module, fits = fit_three(fitter)
    few, courses = fit_few(fitter)

    def evaluate() -> Evaluation:
        answers = dict(zip(fits, predict(module, data.test.inputs), strict=True))
        curves = dict(zip(fits, predict(module, DAYS), strict=True))
        errors = {name: rmse(answer, data.test.targets) for name, answer in answers.items()}
        histories = {name: each.history for name, each in fits.items()}
        return Evaluation(
            metrics={f"{name}_rmse_celsius": error for name, error in errors.items()}
            | {f"{name}_r2": r2(answers[name], data.test.targets) for name in answers},
            plots={
                "fits.png": fitted(DAYS, curves, errors, data.train, data.test),
                "losses.png": loss_curves(histories, "share of the variance that is left"),
                "overfitting.png": overfitting(DAYS, courses, few, data.validation),
            },
        )

    return Trained(
        description="Tells the highest temperature to expect in Seattle on a day of the "
        "year, 1 to 366, in degrees Celsius, by a line, a cubic polynomial and a network "
        "of five hidden layers.",
        reference='Legendre, "Nouvelles méthodes pour la détermination des orbites des '
        'comètes", 1805; Robbins and Monro, "A stochastic approximation method", 1951; '
        'Rumelhart, Hinton and Williams, "Learning representations by back-propagating '
        'errors", 1986',
        module=module,
        inputs={"day": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs=dict.fromkeys(fits, model_card_pb2.TENSOR_ROLE_VALUES),
        golden_inputs={"day": DAYS[::50]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-4),
        fitted=fits["network"],
        evaluate=evaluate,
    )


class Fitter:
    """Fits functions of the day to temperatures by stochastic gradient descent.

    Args:
        data: Its validation rows judge each epoch.
        settings: Of the run.
        run: Where checkpoints lie.
    """

    def __init__(self, data: Dataset, settings: Settings, run: Run) -> None:
        self.settings = settings
        self.train = data.train.rows()
        self._validation = data.validation.rows()
        self._run = run
        self._standardize = Standardize.of(self.train.inputs)
        self._rescale = Rescale.of(self.train.targets)
        # Of the days that were learned from: a loss of 1 is that of their mean.
        self.variance = self.train.targets.var().item()

    def days(self) -> Rows:
        """Returns what an epoch learns from: each of the days as often as it is passed over."""
        train = self.train
        return Rows(train.inputs.repeat(_PASSES, 1), train.targets.repeat(_PASSES, 1))

    def polynomial(self, degree: int) -> nn.Sequential:
        """Returns one that was not trained: from days (n, 1) to degrees Celsius (n, 1)."""
        seed_everything(self.settings.seed, "weights")
        powers = polynomial(degree, self._standardize(self.train.inputs))
        return nn.Sequential(self._standardize, *powers, self._rescale)

    def network(self) -> nn.Sequential:
        """Returns the network, not trained, with the same weights each time."""
        seed_everything(self.settings.seed, "weights")
        return nn.Sequential(self._standardize, *mlp(WIDTHS), self._rescale)

    def fit(
        self, name: str, model: nn.Module, rows: Rows, weight_decay: float = 0, **changes: Any
    ) -> Fitted:
        """Trains the model in place, and returns how it did.

        Args:
            name: Of the checkpoint.
            model: From days to degrees Celsius.
            rows: What it learns from.
            weight_decay: See torch.optim.SGD.
            changes: What is otherwise in the task, see `Task`.
        """
        settings = self.settings
        optimizer = torch.optim.SGD(
            model.parameters(), settings.learning_rate, momentum=0.9, weight_decay=weight_decay
        )
        task = Task(
            model=model,
            train=rows,
            validation=self._validation,
            loss=self._loss,
            metric=R2Score(),
            metric_name="r2",
            optimizer=optimizer,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
        )
        return fit(replace(task, **changes), settings, self._run, name)

    def _loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(predictions, targets) / self.variance


def fit_three(fitter: Fitter) -> tuple[Curves, dict[str, Fitted]]:
    """Returns the line, the cubic and the network, and how each was fitted, by name."""
    days = fitter.days()
    line, cubic, network = fitter.polynomial(1), fitter.polynomial(3), fitter.network()
    fits = {
        # Nothing is chosen for these two: they come to the least squares.
        "line": fitter.fit("line", line, days, schedule=one_cycle, keep_last=True),
        "cubic": fitter.fit("cubic", cubic, days, schedule=one_cycle, keep_last=True),
        "network": fitter.fit("network", network, days, schedule=one_cycle),
    }
    return Curves(line, cubic, network), fits


def fit_few(fitter: Fitter) -> tuple[Split, dict[str, Course]]:
    """Fits the network to a few days: with nothing to hold it, and with two things that do.

    Returns:
        The days, and what came of each way by its name.
    """
    settings = fitter.settings
    draws = generator(settings.seed, "few")
    chosen = torch.randperm(len(fitter.train), generator=draws)[: settings.few]
    few = Rows(fitter.train.inputs[chosen], fitter.train.targets[chosen])
    ways: dict[str, dict[str, Any]] = {
        "no regularisation": {"keep_last": True},
        "weight decay": {"keep_last": True, "weight_decay": settings.weight_decay},
        "early stopping": {"patience": settings.patience},
    }
    courses = {}
    for name, changes in ways.items():
        network = fitter.network()
        few_fitted = fitter.fit(
            name.replace(" ", "-"),
            network,
            # All of them in each step, so that no noise of small batches keeps it from the worst.
            Rows(
                few.inputs.expand(_PASSES_OF_FEW, -1, -1),
                few.targets.expand(_PASSES_OF_FEW, -1, -1),
            ),
            batch_size=1,
            epochs=settings.few_epochs,
            **changes,
        )
        courses[name] = Course(
            values=predict(network, DAYS)[0],
            train=_degrees(few_fitted.history, "train_loss", fitter.variance),
            validation=_degrees(few_fitted.history, "validation_loss", fitter.variance),
        )
    return Split(few.inputs.numpy(), few.targets.numpy()), courses


def _degrees(history: Sequence[Epoch], loss: str, variance: float) -> list[float]:
    """Returns the root of each epoch's mean squared error, in degrees Celsius."""
    return [(epoch[loss] * variance) ** 0.5 for epoch in history]
