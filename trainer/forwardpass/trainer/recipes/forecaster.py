"""forecaster: a recurrent network forecasts the next value of a series, from your own CSV file.

As `sunspots` and `airline` do, and judged as they are: each of the last values is forecast from all
that came before it, beside the last value and the one a season before.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from forwardpass.trainer.data import own_series
from forwardpass.trainer.data.series import Floats, Series
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.export.card import Trained
from forwardpass.trainer.forecasting import About, LastR2, describe, training_rows, validation_row
from forwardpass.trainer.models.recurrent import Forecaster, Scale
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.own_data import OwnData
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace

# Values of a stretch that is unrolled: so many seasons, or these where there are none.
_SEASONS, _LENGTH, _MAX_LENGTH = 4, 48, 256
# Stretches that an epoch learns from at most; of a long series they begin further apart.
_STRETCHES = 4096
# A series that grows beyond what the network has seen is learned from at other levels, too.
_LEVELS = np.geomspace(0.37, 4.5, 8, dtype=np.float32)
# Of that, the lowest level still has the logarithm of a value above 1.
_MIN_LOG = 3.0

ScaleName = Literal["auto", "linear", "sqrt", "log"]


@dataclass(frozen=True, kw_only=True)
class Settings(OwnData, Supervised):
    """Knobs of forecaster."""

    value: Annotated[str, "the column of the values"] = ""
    time: Annotated[str, "the column that rows are put in order by; as they are where empty"] = ""
    season: Annotated[int, "after how many values the series does the same again; 0 for never"] = 0
    cell: Annotated[Literal["rnn", "lstm"], "Elman's network, or one with two states"] = "lstm"
    width: Annotated[int, "numbers in a state"] = 16
    scale: Annotated[ScaleName, "log where the series grows in proportion; auto by its values"] = (
        "auto"
    )
    epochs: Annotated[int, "at most; see patience"] = 30
    batch_size: Annotated[int, "stretches of a step"] = 16
    learning_rate: Annotated[float, "the highest; see schedule"] = 1e-2


def load(settings: Settings, workspace: Workspace) -> Series:
    """Returns the series of the file, and says how it is read."""
    settings.needed("forecaster", data="sunspots.csv", value="spots")
    series = own_series.load(
        settings.path("data"), settings.value, time=settings.time, season=settings.season
    )
    series.left_out.tell(workspace.reporter)
    return series


def train(settings: Settings, series: Series, run: Run) -> Trained:
    """Returns the network and its step, and what is said of them."""
    series.left_out.keep(run)
    kind = _scale(settings.scale, series.train)
    network = Forecaster(settings.cell, settings.width, Scale(kind, torch.from_numpy(series.train)))
    levels = _LEVELS if kind == "log" else np.ones(1, np.float32)
    length = min(_SEASONS * series.season or _LENGTH, _MAX_LENGTH, len(series.train) // 2)
    stretches = (len(series.train) - length) * len(levels)
    fitted = fit(
        Task(
            model=network,
            train=training_rows(
                series, length, length // 4, levels, every=-(-stretches // _STRETCHES)
            ),
            validation=validation_row(series),
            loss=network.loss,
            metric=LastR2(),
            metric_name="r2",
            optimizer=torch.optim.AdamW(
                network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=SCHEDULES[settings.schedule],
            patience=settings.patience,
        ),
        settings,
        run,
    )
    about = About(
        description=f"Forecasts the next {settings.value} after each of a series, as learned from "
        f"{series.origin}.",
        reference='Elman, "Finding structure in time", 1990'
        if settings.cell == "rnn"
        else 'Hochreiter and Schmidhuber, "Long short-term memory", 1997',
        title=series.origin,
        unit=settings.value,
    )
    return describe(about, network, fitted, series, length)


def _scale(name: ScaleName, values: Floats) -> Literal["linear", "sqrt", "log"]:
    """Returns which function of the values is learned.

    Raises:
        SettingError: The one that was asked for has no place for the values.
    """
    least = float(values.min())
    if name == "auto":
        if least < 0:
            return "linear"
        return "log" if least >= _MIN_LOG else "sqrt"
    if (name == "sqrt" and least < 0) or (name == "log" and least < 1):
        raise SettingError(
            f"scale={name}, but the least value is {least:g}: give scale=linear, or values of at "
            f"least {0 if name == 'sqrt' else 1}"
        )
    return name
