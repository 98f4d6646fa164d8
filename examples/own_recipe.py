"""A recipe of your own on your own data: a number that ten measurements foretell.

    forwardpass-train settings examples/own_recipe.py
    forwardpass-train run examples/own_recipe.py width=32
    forwardpass-train run examples/own_recipe.py --sweep weight_decay=0.01,0.1,1

publishes models/own-recipe: how far a patient's diabetes has come a year after ten measurements
were taken, with data that scikit-learn brings. `forwardpass-train new my_recipe` writes one that
tells classes apart, to begin with.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional
from torchmetrics.regression import R2Score

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.evaluation import Answer, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import Regressor, mlp
from forwardpass.trainer.models.scaling import Standardize
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """What can be given as key=value; `Supervised` adds seed, limit and others."""

    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 3e-2
    weight_decay: float = 0.1
    width: Annotated[int, "units of the hidden layer"] = 16


def load(settings: Settings, _: Workspace) -> Dataset:
    """Returns 242 patients to learn from, 100 to choose weights by, and 100 to measure on."""
    rows, progress = load_diabetes(return_X_y=True, scaled=False)
    # Always the same patients, whatever the seed: results with different seeds can be compared.
    order = np.random.default_rng(0).permutation(len(rows))
    inputs = rows[order].astype(np.float32)  # (442, 10)
    targets = progress[order, np.newaxis].astype(np.float32)  # (442, 1)
    parts = (slice(242), slice(242, 342), slice(342, None))
    train, validation, test = (Split(inputs[part], targets[part]) for part in parts)
    return Dataset(
        name="diabetes",
        origin=f"scikit-learn=={sklearn.__version__}",
        license="not stated; Efron et al., Least Angle Regression, 2004",
        labels=(),
        train=train,
        validation=validation,
        test=test,
    ).limited(settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the share of the test rows' variance that the answers explain."""
    (values,) = answer(data.test.inputs)
    return {"r_squared": float(r2_score(data.test.targets, values))}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Returns the trained network, and what is said of it."""
    layers = mlp([10, settings.width, 1])
    # Training need not find out first where the answers lie.
    nn.init.constant_(layers[-1].bias, float(data.train.targets.mean()))
    network = nn.Sequential(Standardize.of(torch.from_numpy(data.train.inputs)), layers)
    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.mse_loss,
            metric=R2Score(),
            metric_name="r_squared",
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
    module = Regressor(network)
    return Trained(
        description="Tells how far diabetes will have come in a year, from ten measurements.",
        reference="Efron and others, Least Angle Regression, 2004 (the data)",
        module=module,
        inputs={"features": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={"value": model_card_pb2.TENSOR_ROLE_VALUES},
        golden_inputs={"features": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-2),
        fitted=fitted,
        evaluate=lambda: Evaluation(
            metrics=measure(partial(predict, module), data),
            plots={"learning-curves.png": learning_curves(fitted.history, "r_squared")},
        ),
    )
