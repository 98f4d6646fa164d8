"""cifar10-resnet: the residual network that its paper trained on CIFAR-10, in minutes on a CPU."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, Self

import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import cifar10
from forwardpass.trainer.data.augment import crop_and_flip
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import Answer, accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.embedding import ProbabilitiesAndEmbedding
from forwardpass.trainer.models.initial import initialize
from forwardpass.trainer.models.resnet import cifar_resnet
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.pictures import first_layer_filters, worst_mistakes
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import Schedule, one_cycle, step
from forwardpass.trainer.training.settings import BatchSize, Patience
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, slots=True)
class Preset:
    """How stochastic gradient descent goes, where no setting says otherwise.

    Attributes:
        epochs: Passes over the 45,000 training rows, 352 steps of 128 each.
        learning_rate: At its highest.
        schedule: What the learning rate does.
        weight_decay: Of all parameters.
        nesterov: Whether the momentum of 0.9 is Nesterov's.
    """

    epochs: int
    learning_rate: float
    schedule: Schedule
    weight_decay: float
    nesterov: bool


PRESETS = {
    "short": Preset(10, 0.2, one_cycle, 5e-4, nesterov=True),
    # Section 4.2 of the paper: 64,000 steps, which are 181.8 epochs.
    "paper": Preset(182, 0.1, step, 1e-4, nesterov=False),
}


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of cifar10-resnet.

    Raises:
        SettingError: A depth that is not 6 n + 2.
    """

    preset: Annotated[
        Literal["short", "paper"],
        "short: 18 minutes of two cores; paper: the paper's own, for a GPU",
    ] = "short"
    depth: Annotated[int, "layers, 6 n + 2: the paper's are 20, 32, 44, 56 and 110"] = 20
    epochs: Annotated[int, "passes over the training rows; 0 for the preset's 10 or 182"] = 0
    batch_size: BatchSize = 128
    learning_rate: Annotated[float, "the highest; 0 for the preset's 0.2 or 0.1"] = 0
    patience: Patience = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 8 or self.depth % 6 != 2:
            raise SettingError(f"depth={self.depth}: give 6 n + 2, such as 20, 32, 44, 56 or 110")

    def resolved(self) -> Self:
        """Returns them with the preset's epochs and learning rate."""
        preset = PRESETS[self.preset]
        return replace(
            self,
            epochs=self.epochs or preset.epochs,
            learning_rate=self.learning_rate or preset.learning_rate,
        )


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return cifar10.load(workspace.cache, workspace.reporter, settings.limit)


def measure(answer: Answer, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on the test rows."""
    probabilities, _ = answer(data.test.inputs)
    return {"accuracy": accuracy(probabilities, data.test.targets)}


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    preset = PRESETS[settings.preset]
    network = initialize(cifar_resnet(settings.depth, cifar10.MEAN, cifar10.DEVIATION))
    # Where an image does not reach, the network sees its own zero.
    grey = [round(255 * mean) for mean in cifar10.MEAN]

    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(10, average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.SGD(
                network.parameters(),
                settings.learning_rate,
                momentum=0.9,
                nesterov=preset.nesterov,
                weight_decay=preset.weight_decay,
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=preset.schedule,
            augment=partial(crop_and_flip, border=4, fill=grey),
            patience=settings.patience,
        ),
        settings,
        run,
    )

    published = ProbabilitiesAndEmbedding(network)

    def evaluate() -> Evaluation:
        probabilities, _ = predict(published, data.test.inputs)
        filters = network.get_parameter("stem.0.weight")
        return Evaluation(
            metrics=measure(partial(predict, published), data),
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    probabilities.argmax(axis=1), data.test.targets, data.labels
                ),
                "worst-mistakes.png": worst_mistakes(
                    data.test.inputs, probabilities, data.test.targets, data.labels
                ),
                "first-layer-filters.png": first_layer_filters(filters.detach().numpy()),
            },
        )

    return Trained(
        description="Tells which of ten animals and vehicles a 32 x 32 colour photo shows, "
        "and embeds it in 64 numbers.",
        reference='He, Zhang, Ren and Sun, "Deep residual learning for image '
        'recognition", 2015, section 4.2',
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES,
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
        },
        golden_inputs={"image": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-4),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )
