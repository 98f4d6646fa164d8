"""faces-autoencoder: a network that learns to draw faces from few numbers, beside eigenfaces."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from forwardpass.trainer.data import faces
from forwardpass.trainer.data.augment import crop_and_flip
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.evaluation import predict, recognition_accuracy, rmse
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.autoencoder import Autoencoder
from forwardpass.trainer.models.pca import fit_pca
from forwardpass.trainer.models.reconstruction import EmbeddingAndReconstruction, Reconstructor
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.faces import people_map, reconstructions
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.settings import BatchSize, Epochs, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

_SHOWN = 8  # photographs that are drawn


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of faces-autoencoder."""

    epochs: Epochs = 120
    batch_size: BatchSize = 32
    learning_rate: PeakRate = 2e-3
    embedding: Annotated[int, "numbers in the embedding, as faces-pca has components"] = 40
    shift: Annotated[int, "pixels that a training photograph is moved by at most"] = 3


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return faces.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    every, _ = fit_pca(torch.from_numpy(data.train.inputs))
    pca = every.first(settings.embedding)

    network = Autoencoder(pca.mean.detach(), settings.embedding)

    differences = Differences(network)
    fitted = fit(
        Task(
            model=differences,
            train=_nothing_left(data.train),
            validation=_nothing_left(data.validation),
            loss=functional.mse_loss,
            metric=Explained(pca.mean, data.validation.inputs),
            metric_name="explained",
            optimizer=torch.optim.AdamW(network.parameters(), settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            augment=partial(crop_and_flip, border=settings.shift, fill=None),
        ),
        settings,
        run,
    )

    published = EmbeddingAndReconstruction(network)

    def evaluate() -> Evaluation:
        embeddings, drawn = predict(published, data.test.inputs)
        eigenfaces = EmbeddingAndReconstruction(pca)
        _, drawn_by_pca = predict(eigenfaces, data.test.inputs)
        return Evaluation(
            metrics={
                "reconstruction_rms_grey_levels": rmse(drawn, data.test.inputs),
                "recognition_accuracy": recognition_accuracy(published, data),
                "pca_reconstruction_rms_grey_levels": rmse(drawn_by_pca, data.test.inputs),
                "pca_recognition_accuracy": recognition_accuracy(eigenfaces, data),
            },
            plots={
                "learning-curves.png": learning_curves(fitted.history, "explained"),
                "reconstructions.png": reconstructions(
                    {
                        "photograph": data.test.inputs[:_SHOWN],
                        f"autoencoder, {settings.embedding}": drawn[:_SHOWN],
                        f"eigenfaces, {settings.embedding}": drawn_by_pca[:_SHOWN],
                    }
                ),
                "people-map.png": people_map(embeddings, data.test.inputs, data.test.targets),
            },
        )

    return Trained(
        description=f"Embeds a 92 x 112 greyscale photograph of a face in "
        f"{settings.embedding} numbers, and draws it again from these.",
        reference='Hinton and Salakhutdinov, "Reducing the dimensionality of data with '
        'neural networks", 2006',
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
            "reconstruction": model_card_pb2.TENSOR_ROLE_IMAGE,
        },
        golden_inputs={"image": data.test.inputs[:8]},
        # A pixel may be rounded the other way.
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
        fitted=fitted,
        evaluate=evaluate,
    )


class Differences(nn.Module):
    """What is trained: by how much the drawing of an image differs from it.

    Args:
        network: Draws it.
    """

    def __init__(self, network: Reconstructor) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """From uint8 (n, h, w, 1) to differences with 1 for 255 grey levels, (n, h, w, 1)."""
        drawn = self.network.draw(self.network.embed(image))
        return (drawn - image.float()) / 255


def _nothing_left(split: Split) -> Rows:
    """Returns the images, with the differences that are wanted: none."""
    images = torch.from_numpy(split.inputs)
    return Rows(images, torch.zeros(1).expand(images.shape))


class Explained(Metric):
    """The share of the images' variance about the mean face that differences leave out.

    Args:
        mean: What would be drawn without looking, (h, w, 1).
        images: Those whose differences it will be given, uint8 (n, h, w, 1).
    """

    left: Tensor
    count: Tensor

    def __init__(self, mean: Tensor, images: Array) -> None:
        super().__init__()
        self.variance = ((torch.from_numpy(images) - mean) / 255).square().mean().item()
        self.add_state("left", torch.tensor(0.0))
        self.add_state("count", torch.tensor(0))

    def update(self, differences: Tensor, _: Tensor) -> None:
        """Takes what `Differences` gave."""
        self.left += differences.square().sum()
        self.count += differences.numel()

    def compute(self) -> Tensor:
        """Returns the share: 1 where drawings are perfect, 0 where all are the mean face."""
        return 1 - self.left / self.count / self.variance
