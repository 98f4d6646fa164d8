"""playground: what a small network makes of points in the plane, after playground.tensorflow.org.

As there, two numbers go in, one comes out of a tanh, squared error is what is made smaller, and the
network of the last epoch is what is looked at.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torchmetrics.regression import R2Score

from forwardpass.trainer.data import playground
from forwardpass.trainer.data.dataset import Split
from forwardpass.trainer.data.playground import Points
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.mlp import ACTIVATIONS, Regressor, mlp
from forwardpass.trainer.plots.curves import loss_curves
from forwardpass.trainer.plots.plane import Plane, hidden_units, points_and_boundary
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.seeds import derive
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.settings import Widths
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of playground.

    Raises:
        SettingError: There would be too few points to train or to test on.
    """

    data: Annotated[playground.Kind, "how the points lie"] = "circle"
    noise: Annotated[float, "how much chance there is in the points, 0 to 0.5"] = 0.0
    train_share: Annotated[float, "of the 500 points; the others are test rows"] = 0.5
    hidden: Annotated[
        Widths, "units of each hidden layer; without any there is no hidden layer"
    ] = (4, 2)
    activation: Annotated[Literal["relu", "tanh", "sigmoid", "linear"], "of the hidden units"] = (
        "tanh"
    )
    regularization: Annotated[Literal["none", "l1", "l2"], "of the weights, not of biases"] = "none"
    regularization_rate: Annotated[
        float, "how much the weights' penalty counts beside the loss"
    ] = 0.003
    epochs: Annotated[int, "passes over the training points"] = 60
    batch_size: Annotated[int, "points of a step"] = 10
    learning_rate: Annotated[float, "the same in every step"] = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.train_share <= 0.9:
            raise SettingError(
                f"train_share={self.train_share}: give a share of at least 0.1 and at most 0.9"
            )


def load(settings: Settings, _workspace: Workspace) -> Points:
    """Returns what is learned from and what is tested on."""
    points = playground.draw(settings.data, settings.noise, derive(settings.seed, "points"))
    count = round(len(points) * settings.train_share)
    limit = settings.limit or len(points)
    return Points(
        settings.data,
        train=points.head(count).head(limit),
        test=Split(points.inputs[count:], points.targets[count:]).head(limit),
    )


def train(settings: Settings, data: Points, run: Run) -> Trained:
    """Trains the network, and describes it as it is after the last epoch."""
    network, fitted = learn(settings, data, run)

    def evaluate() -> Evaluation:
        plane = Plane(6.0)
        (answers,) = predict(network, data.test.inputs)
        right = (answers > 0) == (data.test.targets > 0)
        links = torch.cat([weight.ravel() for weight in weights(network)])
        plots = {
            "decision-boundary.png": points_and_boundary(
                plane, predict(network, plane.points)[0], data.train, data.test
            ),
            "losses.png": loss_curves(
                {"Half squared error": fitted.history}, unit="mean over the points", judged="test"
            ),
        }
        if settings.hidden:
            plots["hidden-units.png"] = hidden_units(plane, _layers(network, plane.points))
        return Evaluation(
            metrics={
                "accuracy": float(right.mean()),
                "half_squared_error": float(np.square(answers - data.test.targets).mean() / 2),
                "share_of_zero_weights": (links == 0).float().mean().item(),
            },
            plots=plots,
        )

    return Trained(
        description="Tells on which side of a boundary a point of the plane lies: "
        f"above 0 for one class of the data called {settings.data}, below for the other.",
        reference='Smilkov, Carter, Sculley, Viégas and Wattenberg, "Direct-manipulation '
        'visualization of deep networks", 2017',
        module=Regressor(network),
        inputs={"features": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={"value": model_card_pb2.TENSOR_ROLE_VALUES},
        golden_inputs={"features": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        evaluate=evaluate,
    )


def learn(settings: Settings, data: Points, run: Run) -> tuple[nn.Sequential, Fitted]:
    """Returns the network, from points (n, 2) to values (n, 1), and how it was fitted."""
    network = nn.Sequential(
        *mlp([2, *settings.hidden, 1], activation=ACTIVATIONS[settings.activation]), nn.Tanh()
    )
    optimizer = torch.optim.SGD(network.parameters(), settings.learning_rate)
    optimizer.register_step_post_hook(_Shrink(network, settings))
    task = Task(
        model=network,
        train=data.train.rows(),
        # They are looked at all along, as on the page; so nothing is chosen by them.
        validation=data.test.rows(),
        keep_last=True,
        loss=_half_squared_error,
        metric=R2Score(),
        metric_name="r2",
        optimizer=optimizer,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    return network, fit(task, settings, run)


def _half_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(predictions, targets) / 2


def weights(network: nn.Sequential) -> list[Tensor]:
    """Returns the weights of each layer, without its biases."""
    return [layer.weight for layer in network if isinstance(layer, nn.Linear)]


class _Shrink:
    """Takes each step's part of a penalty on the weights: rate * |w| (l1) or rate * w^2 / 2 (l2).

    l1 moves each weight towards 0 by the same amount and leaves it there; l2 by the same share.
    """

    def __init__(self, network: nn.Sequential, settings: Settings) -> None:
        self._weights = weights(network)
        self._settings = settings

    @torch.no_grad()
    def __call__(self, optimizer: Optimizer, *_: object) -> None:
        amount = optimizer.param_groups[0]["lr"] * self._settings.regularization_rate
        for weight in self._weights:
            if self._settings.regularization == "l1":
                weight.copy_(functional.softshrink(weight, amount))
            elif self._settings.regularization == "l2":
                weight.mul_(1 - amount)


def _layers(network: nn.Sequential, points: Array) -> list[Array]:
    """Returns what each hidden layer makes of the points, after its activation: (n, units)."""
    ends = range(2, len(network) - 1, 2)
    return [predict(network[:end], points, rows=len(points))[0] for end in ends]
