"""airline: an LSTM forecasts next month's passengers from those of all months before.

The series grows from year to year, beyond whatever the network has seen. What the months do to it
is in proportion to its level, though, so each stretch is learned from at other levels too.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from forwardpass.trainer.data import airline
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.export.card import Trained
from forwardpass.trainer.forecasting import About, LastR2, describe, training_rows, validation_row
from forwardpass.trainer.models.recurrent import Forecaster, Scale
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.settings import Epochs, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace

# Values of a stretch that is unrolled, and how many of them only serve to fill the state.
LENGTH, UNJUDGED = 48, 24
WIDTH = 16
# Factors, from about a third to about four and a half.
LEVELS = np.geomspace(0.37, 4.5, 8, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of airline."""

    epochs: Epochs = 30
    batch_size: Annotated[int, "stretches of 48 months"] = 16
    learning_rate: PeakRate = 1e-2


def load(_settings: Settings, workspace: Workspace) -> Series:
    """Returns what is learned from and forecast."""
    return airline.load(workspace.cache, workspace.reporter)


def train(settings: Settings, series: Series, run: Run) -> Trained:
    """Trains the network, and describes it and its step."""
    network = Forecaster("lstm", WIDTH, Scale("log", torch.from_numpy(series.train)))
    fitted = fit(
        Task(
            model=network,
            train=training_rows(series, LENGTH, UNJUDGED, LEVELS),
            validation=validation_row(series),
            loss=network.loss,
            metric=LastR2(),
            metric_name="r2",
            optimizer=torch.optim.AdamW(network.parameters(), settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
        ),
        settings,
        run,
    )
    about = About(
        description="Forecasts the thousands of airline passengers of the month after each "
        "month of a series.",
        reference='Hochreiter and Schmidhuber, "Long short-term memory", 1997',
        title="Airline passengers, by month",
        unit="passengers (thousands a month)",
    )
    return describe(about, network, fitted, series, LENGTH)
