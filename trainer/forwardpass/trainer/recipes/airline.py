"""airline: an LSTM forecasts next month's passengers from those of all months before.

The series grows from year to year, beyond whatever the network has seen. What the months do to it
is in proportion to its level, though, so each stretch is learned from at other levels too.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from forwardpass.trainer.data import airline
from forwardpass.trainer.export.release import Published, Trained, software
from forwardpass.trainer.forecasting import (
    LastR2,
    draw,
    measure,
    publish_both,
    stretches,
    training_rows,
    validation_row,
    walk_forward,
)
from forwardpass.trainer.models.recurrent import Forecaster, Scale
from forwardpass.trainer.training.checkpoints import open_run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import Epochs, PeakRate, fingerprint
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

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


def run(settings: Settings, workspace: Workspace) -> Published:
    """Trains it, and publishes the next versions of airline and of airline-step."""
    series = airline.load(workspace.cache, workspace.reporter)

    seed_everything(settings.seed, "weights")
    network = Forecaster("lstm", WIDTH, Scale("log", torch.from_numpy(series.train)))

    key = fingerprint("airline", settings, series.digest(), software())
    with open_run(workspace.runs / "airline" / key) as folder:
        history = fit(
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
            folder,
            workspace.reporter,
        )

        return publish_both(
            Trained(
                recipe="airline",
                description="Forecasts the thousands of airline passengers of the month after each "
                "month of a series.",
                reference='Hochreiter and Schmidhuber, "Long short-term memory", 1997',
                settings=settings,
                module=network,
                inputs={"series": model_card_pb2.TENSOR_ROLE_FEATURES},
                outputs={"forecast": model_card_pb2.TENSOR_ROLE_VALUES},
                sequences=("series",),
                golden_inputs={"series": stretches(series, LENGTH)},
                metrics=measure(walk_forward(network, series), series),
                source=series.source(),
                tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-3),
                plots=draw(
                    network,
                    series,
                    history,
                    "Airline passengers, by month",
                    "passengers (thousands a month)",
                ),
            ),
            network,
            series,
            workspace,
        )
