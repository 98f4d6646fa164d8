"""sunspots: a recurrent network forecasts next year's sunspots from those of all years before."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from forwardpass.trainer.data import sunspots
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


def run(settings: Settings, workspace: Workspace) -> Published:
    """Trains it, and publishes the next versions of sunspots and of sunspots-step."""
    series = sunspots.load(workspace.cache, workspace.reporter)

    seed_everything(settings.seed, "weights")
    network = Forecaster("rnn", WIDTH, Scale("sqrt", torch.from_numpy(series.train)))

    key = fingerprint("sunspots", settings, series.digest(), software())
    with open_run(workspace.runs / "sunspots" / key) as folder:
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
                recipe="sunspots",
                description="Forecasts the mean number of sunspots of the year after each year of "
                "a series.",
                reference='Elman, "Finding structure in time", 1990',
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
                    network, series, history, "Sunspots, by year", "sunspots (mean of a year)"
                ),
            ),
            network,
            series,
            workspace,
        )
