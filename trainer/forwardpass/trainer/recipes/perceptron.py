"""perceptron: single neurons whose output units and losses match four kinds of response.

From three measurements of a penguin: how its blood differs from a standard (any real number), its
mass (positive), its sex (one of two) and its species (one of three).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.regression import R2Score
from torchmetrics.wrappers import LambdaInputTransformer

from forwardpass.trainer.data import penguins
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import accuracy, predict, r2, rmse
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.perceptron import Perceptrons
from forwardpass.trainer.models.scaling import Standardize
from forwardpass.trainer.plots.curves import loss_curves
from forwardpass.trainer.plots.perceptron import Neuron, activations, answers_of_units
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import BatchSize, Epochs, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of perceptron."""

    epochs: Epochs = 40
    batch_size: BatchSize = 16
    learning_rate: PeakRate = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Something to be told, and what suits it.

    Attributes:
        column: Of the targets.
        neurons: How many: one, or one for each class.
        unit: From sums to what is answered.
        loss: (sums, targets) -> scalar: how unlikely the unit's answer makes the targets. Those
            with an exponential in the unit are computed from sums, where nothing is rounded to 0.
        metric: Takes (sums, targets); greater is better.
        metric_name: What it is called.
    """

    column: int
    neurons: int
    unit: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    metric_name: str

    def targets(self, rows: Rows) -> Tensor:
        """Returns its own part: float32 (n, 1), or of classes int64 (n)."""
        own = rows.targets[:, self.column]
        return own[:, None] if self.neurons == 1 else own.long()


def _squared_error_of_relu(sums: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(sums.relu(), targets)


RESPONSES = {
    "carbon": Response(
        column=0,
        neurons=1,
        unit=nn.Identity(),
        loss=functional.mse_loss,
        metric=R2Score(),
        metric_name="r2",
    ),
    "mass": Response(
        column=1,
        neurons=1,
        unit=nn.ReLU(),
        loss=_squared_error_of_relu,
        metric=LambdaInputTransformer(R2Score(), transform_pred=torch.relu),
        metric_name="r2",
    ),
    "male": Response(
        column=2,
        neurons=1,
        unit=nn.Sigmoid(),
        loss=functional.binary_cross_entropy_with_logits,
        metric=LambdaInputTransformer(BinaryAccuracy(), transform_pred=torch.sigmoid),
        metric_name="accuracy",
    ),
    "species": Response(
        column=3,
        neurons=len(penguins.SPECIES),
        unit=nn.Softmax(dim=1),
        loss=functional.cross_entropy,
        metric=MulticlassAccuracy(len(penguins.SPECIES), average="micro"),
        metric_name="accuracy",
    ),
}


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return penguins.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the neurons of all responses, and describes them."""
    sums: dict[str, nn.Linear] = {}
    fits: dict[str, Fitted] = {}
    for name in RESPONSES:
        sums[name], fits[name] = learn(name, data, settings, run)
    units = {name: response.unit for name, response in RESPONSES.items()}
    module = Perceptrons(Standardize.of(data.train.rows().inputs), sums, units)

    def evaluate() -> Evaluation:
        answers = dict(zip(RESPONSES, predict(module, data.test.inputs), strict=True))
        return Evaluation(
            metrics=_measure(answers, data.test.targets),
            plots={
                "activations.png": activations(_neuron_of_two(data, sums["male"])),
                "answers.png": answers_of_units(answers, data.test.targets, data.labels),
                "losses.png": loss_curves(
                    {
                        "carbon: squared error": fits["carbon"].history,
                        "mass: squared error": fits["mass"].history,
                        "male: binary cross-entropy": fits["male"].history,
                        "species: cross-entropy": fits["species"].history,
                    },
                    unit="mean loss a penguin",
                ),
            },
        )

    values = model_card_pb2.TENSOR_ROLE_VALUES
    return Trained(
        description="Tells of a penguin, from the length and depth of its bill and the "
        "length of a flipper in millimetres: carbon-13 in its blood (permille from the "
        "standard), its mass (kg), how likely it is male, and its species.",
        reference='Rosenblatt, "The perceptron: a probabilistic model for information '
        'storage and organization in the brain", 1958; Bishop, "Pattern recognition and '
        'machine learning", 2006, sections 4.3.6 and 5.2, on units and losses that match',
        module=module,
        inputs={"features": model_card_pb2.TENSOR_ROLE_FEATURES},
        outputs={
            "carbon": values,
            "mass": values,
            "male": values,
            "species": model_card_pb2.TENSOR_ROLE_PROBABILITIES,
        },
        golden_inputs={"features": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        # One of the four has to be compared; the others learn alike.
        fitted=fits["species"],
        evaluate=evaluate,
    )


def start_neurons(features: int, response: Response) -> nn.Linear:
    """Returns a response's neurons as they are before training.

    Their bias is above 0, since a ReLU that answers 0 to every penguin learns nothing: of 100
    neurons that started from a random bias 2 never answered anything else.
    """
    neurons = nn.Linear(features, response.neurons)
    nn.init.ones_(neurons.bias)
    return neurons


def learn(name: str, data: Dataset, settings: Settings, run: Run) -> tuple[nn.Linear, Fitted]:
    """Returns one response's neurons, which take standardised inputs, and how training went."""
    response = RESPONSES[name]
    standardize = Standardize.of(data.train.rows().inputs)

    def rows(all_responses: Rows) -> Rows:
        return Rows(standardize(all_responses.inputs), response.targets(all_responses))

    seed_everything(settings.seed, "weights", name)
    neurons = start_neurons(data.train.inputs.shape[1], response)
    fitted = fit(
        Task(
            model=neurons,
            train=rows(data.train.rows()),
            validation=rows(data.validation.rows()),
            loss=response.loss,
            metric=response.metric,
            metric_name=response.metric_name,
            optimizer=torch.optim.SGD(neurons.parameters(), settings.learning_rate, momentum=0.9),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            # Each loss has one minimum, so there is nothing to choose between epochs.
            keep_last=True,
        ),
        settings,
        run,
        name=name,
    )
    return neurons, fitted


def _measure(answers: dict[str, Array], targets: Array) -> dict[str, float]:
    """Returns how near the answers are to the targets (n, 4)."""
    carbon, mass, male, species = np.split(targets, 4, axis=1)
    return {
        "carbon_rmse_permille": rmse(answers["carbon"], carbon),
        "carbon_r2": r2(answers["carbon"], carbon),
        "mass_rmse_kg": rmse(answers["mass"], mass),
        "mass_r2": r2(answers["mass"], mass),
        "male_accuracy": float(np.mean((answers["male"] > 0.5) == male)),
        "species_accuracy": accuracy(answers["species"], species[:, 0]),
    }


def _neuron_of_two(data: Dataset, neurons: nn.Linear) -> Neuron:
    """Returns the neuron with its third input at the mean: a plane over the two of the bill."""
    rows = data.train.inputs.astype(np.float64)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0, ddof=1)
    weights = neurons.weight[0].detach().double().numpy() / deviation
    return Neuron(
        weights=weights[:2],
        bias=neurons.bias.item() - float(weights[:2] @ mean[:2]),
        names=("length of the bill, mm", "depth of the bill, mm"),
        low=rows.min(axis=0)[:2],
        high=rows.max(axis=0)[:2],
    )
