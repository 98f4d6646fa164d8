"""sunspots: a recurrent network forecasts next year's sunspots from those of all years before."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from forwardpass.trainer.data import sunspots
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
LENGTH, UNJUDGED = 44, 11
WIDTH = 24
# As they are.
LEVELS = np.ones(1, np.float32)


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of sunspots."""

    epochs: Epochs = 30
    batch_size: Annotated[int, "stretches of 44 years"] = 16
    learning_rate: PeakRate = 5e-3


def load(_settings: Settings, workspace: Workspace) -> Series:
    """Returns what is learned from and forecast."""
    return sunspots.load(workspace.cache, workspace.reporter)


def train(settings: Settings, series: Series, run: Run) -> Trained:
    """Trains the network, and describes it and its step."""
    network = Forecaster("rnn", WIDTH, Scale("sqrt", torch.from_numpy(series.train)))
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
        description="Forecasts the mean number of sunspots of the year after each year of "
        "a series.",
        reference='Elman, "Finding structure in time", 1990',
        title="Sunspots, by year",
        unit="sunspots (mean of a year)",
    )
    return describe(about, network, fitted, series, LENGTH)
