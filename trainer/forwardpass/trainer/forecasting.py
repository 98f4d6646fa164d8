"""What the recipes that forecast a series share: how forecasts are judged, drawn and described.

A forecaster is published twice, from the same weights: unrolled, which takes a series of any length
and gives the forecast after each of its values; and as its step, which takes one value and the
state before it, and gives the state after it. A stream of steps forecasts what the unrolled network
does, and need not send again what came before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.regression import R2Score

from forwardpass.trainer.data.series import Floats, Series
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.recurrent import Forecaster, LstmStep, RnnStep, states_along
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.sequences import forecast_picture, state_along
from forwardpass.trainer.training.fit import Rows
from forwardpass.trainer.training.fitted import Epoch, Fitted
from forwardpass.v1 import model_card_pb2

_GOLDEN = 8
# Of the series' deviation.
_TOLERANCE = 2.5e-5
# What the forecasts are drawn beside, without a season and with one.
_NAIVE = ("the last value", "a season before")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a recipe says about its forecaster.

    Attributes:
        description: One sentence on what it forecasts.
        reference: The paper that its cell is from.
        title: Of the series, in a picture.
        unit: What its values are.
    """

    description: str
    reference: str
    title: str
    unit: str


class LastR2(R2Score):
    """The coefficient of determination of the last forecasts, as many as there are targets."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Takes forecasts (n, t) and the targets of the last of them, (n, k)."""
        super().update(predictions[:, -targets.shape[1] :].flatten(), targets.flatten())


def training_rows(
    series: Series, length: int, unjudged: int, levels: Floats, every: int = 1
) -> Rows:
    """Returns stretches of the training values, and what follows each value but the first ones.

    Args:
        series: The series.
        length: Values in a stretch.
        unjudged: The first values of each, after which forecasts do not count: too little is known.
        levels: Factors that every stretch is multiplied by, each of which makes a row of it.
        every: How far apart stretches begin.
    """
    inputs, targets = (
        (windows[::every] * levels[:, None, None]).reshape(-1, length)
        for windows in series.windows(length)
    )
    return Rows(torch.from_numpy(inputs), torch.from_numpy(targets[:, unjudged:].copy()))


def validation_row(series: Series) -> Rows:
    """Returns all that was known before the test values, and the last of it to be forecast."""
    known = torch.from_numpy(series.known)[None]  # (1, t)
    return Rows(known[:, :-1], known[:, -series.validation :])


def walk_forward(forecaster: Forecaster, series: Series) -> Floats:
    """Returns the forecast of each test value from all that came before it, (k)."""
    (forecasts,) = predict(forecaster, series.values[None])  # (1, t)
    ours: Floats = forecasts[0, -series.test - 1 : -1]
    return ours


def measure(forecasts: Floats, series: Series) -> dict[str, float]:
    """Returns how far forecasts of the test values are off on average, in the series' unit.

    And how far naive ones are: that each value is the last one, or the one a season before it.
    """
    ours = _error(forecasts, series)
    naive = {"last_value": _error(series.repeated(1), series)}
    if series.season:
        naive["seasonal_naive"] = _error(series.repeated(series.season), series)
    name, error = list(naive.items())[-1]
    return (
        {"mean_absolute_error": ours}
        | {f"mean_absolute_error_{name}": error for name, error in naive.items()}
        # A made-up series may be as regular as that.
        | ({f"ratio_to_{name}": ours / error} if error else {})
    )


def _error(forecasts: Floats, series: Series) -> float:
    return float(np.abs(forecasts - series.truth).mean())


def draw(
    forecaster: Forecaster, series: Series, history: Sequence[Epoch], title: str, ylabel: str
) -> dict[str, bytes]:
    """Returns the pictures by name: learning curves, forecasts, and h_t along the series.

    Args:
        forecaster: Trained.
        series: The series.
        history: What `fit` returned.
        title: Of the series.
        ylabel: What its values are, with their unit.
    """
    scaled = forecaster.scale(torch.from_numpy(series.values))[:, None]  # (t, 1)
    return {
        "learning-curves.png": learning_curves(history, "r2"),
        "walk-forward.png": forecast_picture(
            series.years,
            series.values,
            {
                "the network": walk_forward(forecaster, series),
                _NAIVE[bool(series.season)]: series.repeated(series.season or 1),
            },
            title=title,
            xlabel=series.clock,
            ylabel=ylabel,
        ),
        "hidden-state.png": state_along(
            states_along(forecaster.cell, scaled).numpy(),
            series.marks(),
            series.values,
            xlabel=series.clock,
            title=ylabel,
        ),
    }


def describe(
    about: About, forecaster: Forecaster, fitted: Fitted, series: Series, length: int
) -> Trained:
    """Returns the forecaster, unrolled, and its step, which is published beside it.

    Args:
        about: Both.
        forecaster: Trained.
        fitted: How it was.
        series: What it has learned from.
        length: Values in each golden stretch.
    """
    names = ("h", "c") if isinstance(forecaster.cell, nn.LSTM) else ("h",)
    # The states of eight series, each read up to another place.
    places = np.linspace(max(1, series.season), len(series.values) - 1, _GOLDEN).astype(int)
    states: dict[str, list[Tensor]] = {name: [] for name in names}
    for place in places:
        read = torch.from_numpy(series.values[:place])[None]
        for name, after in zip(names, forecaster.read(read), strict=True):
            states[name].append(after[0])
    state = model_card_pb2.TENSOR_ROLE_STATE
    tolerance = model_card_pb2.Tolerance(
        relative=1e-4, absolute=_TOLERANCE * float(series.train.std())
    )

    def evaluate_step() -> Evaluation:
        return Evaluation(metrics=measure(walk_forward(forecaster, series), series))

    def evaluate() -> Evaluation:
        plots = draw(forecaster, series, fitted.history, about.title, about.unit)
        return replace(evaluate_step(), plots=plots)

    step = Trained(
        description=f"{about.description} One value a step: the state goes along.",
        reference=about.reference,
        module=LstmStep(forecaster) if len(names) == 2 else RnnStep(forecaster),
        inputs={"value": model_card_pb2.TENSOR_ROLE_FEATURES} | dict.fromkeys(names, state),
        outputs={"forecast": model_card_pb2.TENSOR_ROLE_VALUES}
        | {f"next_{name}": state for name in names},
        states={name: f"next_{name}" for name in names},
        golden_inputs={"value": series.values[places, None]}
        | {name: torch.stack(rows).numpy() for name, rows in states.items()},
        tolerance=tolerance,
        evaluate=evaluate_step,
    )
    return Trained(
        description=about.description,
        reference=about.reference,
        module=forecaster,
        inputs={"series": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={"forecast": model_card_pb2.TENSOR_ROLE_VALUES},
        sequences=("series",),
        golden_inputs={"series": _stretches(series, length)},
        tolerance=tolerance,
        fitted=fitted,
        evaluate=evaluate,
        also={"step": step},
    )


def _stretches(series: Series, length: int) -> Floats:
    """Returns eight stretches of the series, as far from each other as can be, (8, length)."""
    starts = np.linspace(0, len(series.values) - length, _GOLDEN).astype(int)
    return np.stack([series.values[start : start + length] for start in starts])
