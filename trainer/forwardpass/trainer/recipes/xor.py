"""xor: the smallest network that computes what no linear model can.

f(x) = w^T max(0, W^T x + c) + b with two inputs and two hidden units: 9 parameters, four examples.
Of 100 random starts 81 ended where a unit is dead or both do the same, so there are up to 60 of
them; the first that solves the problem is published, and the card says which one it was.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.regression import R2Score

from forwardpass.artefact import array_digest
from forwardpass.trainer.errors import TrainerError
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import Regressor, mlp
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.plane import decision_boundary, hidden_space
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.schedules import SCHEDULES, ScheduleName
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import Supervised
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

POINTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TARGETS = np.array([[0], [1], [1], [0]], np.float32)
# Mean squared error below which the problem counts as solved.
SOLVED = 1e-3
# An epoch is so many passes over the four points.
_PASSES = 80


@dataclass(frozen=True, kw_only=True)
class Settings(Supervised):
    """Knobs of xor."""

    epochs: Annotated[int, "of 320 rows: each point 80 times"] = 40
    batch_size: int = 32
    learning_rate: float = 0.02
    weight_decay: float = 0.0
    schedule: ScheduleName = "constant"
    attempts: Annotated[int, "random starts, at most"] = 60


@dataclass(frozen=True, slots=True)
class TruthTable:
    """All there is to learn: four points, and what is wanted of them."""

    def digest(self) -> str:
        """Returns the SHA-256 of both."""
        return array_digest([POINTS, TARGETS])

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of it."""
        return model_card_pb2.DataSource(
            name="xor", origin="the truth table", sha256=self.digest(), train_rows=len(POINTS)
        )


def load(_settings: Settings, _workspace: Workspace) -> TruthTable:
    """Returns the truth table."""
    return TruthTable()


def train(settings: Settings, _data: TruthTable, run: Run) -> Trained:
    """Trains networks until one solves the problem, and describes that one.

    Raises:
        TrainerError: No start led to a solution.
    """
    network, fitted, attempt = _solve(settings, run)

    def evaluate() -> Evaluation:
        xs = np.linspace(-0.5, 1.5, 161, dtype=np.float32)
        plane = np.stack(np.meshgrid(xs, xs), axis=-1).reshape(-1, 2)  # (161 * 161, 2)
        values = predict(network, plane, rows=len(plane))[0].reshape(161, 161)
        hidden = predict(network[:2], POINTS)[0]  # (4, 2)
        answers = predict(network, POINTS)[0]  # (4, 1)
        last = network[2]
        assert isinstance(last, nn.Linear)
        return Evaluation(
            # The four points are all there is: they are learned from and measured on.
            metrics={
                "accuracy": float(((answers > 0.5) == (TARGETS > 0.5)).mean()),
                "mean_squared_error": float(np.square(answers - TARGETS).mean()),
            },
            plots={
                "learning-curves.png": learning_curves(fitted.history, "r2"),
                "decision-boundary.png": decision_boundary(xs, values, POINTS, TARGETS[:, 0]),
                "hidden-space.png": hidden_space(
                    POINTS,
                    hidden,
                    TARGETS[:, 0],
                    last.weight[0].detach().numpy(),
                    last.bias.item(),
                ),
            },
        )

    return Trained(
        description="Computes the exclusive or of two numbers, and something in between "
        f"for numbers between 0 and 1 (random start {attempt + 1}).",
        reference='Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 6.1',
        module=Regressor(network),
        inputs={"features": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={"value": model_card_pb2.TENSOR_ROLE_VALUES},
        golden_inputs={"features": np.concatenate([POINTS, POINTS * 0.5 + 0.25])},
        tolerance=model_card_pb2.Tolerance(relative=1e-5, absolute=1e-6),
        evaluate=evaluate,
    )


def _solve(settings: Settings, run: Run) -> tuple[nn.Sequential, Fitted, int]:
    """Returns the first network that solves the problem, how it was fitted, and the attempt."""
    points, targets = torch.from_numpy(POINTS), torch.from_numpy(TARGETS)
    for attempt in range(settings.attempts):
        seed_everything(settings.seed, "weights", attempt)
        network = mlp([2, 2, 1])
        fitted = fit(
            Task(
                model=network,
                train=Rows(points.repeat(_PASSES, 1), targets.repeat(_PASSES, 1)),
                validation=Rows(points, targets),
                loss=functional.mse_loss,
                metric=R2Score(),
                metric_name="r2",
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
            name=f"fit-{attempt}",
        )
        error = min(epoch["validation_loss"] for epoch in fitted.history)
        if error < SOLVED:
            return network, fitted, attempt
        run.reporter.note(f"start {attempt + 1} is stuck at an error of {error:.3f}")
    raise TrainerError(
        f"none of {settings.attempts} random starts came below an error of {SOLVED:g}; nothing was "
        "published. Try another seed, or more epochs or attempts."
    )
