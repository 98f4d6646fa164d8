"""faces-pca: eigenfaces, the directions in which the photographs of 40 people vary most."""

from dataclasses import dataclass
from typing import Annotated

import torch

from forwardpass.trainer.data import faces
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import predict, recognition_accuracy, rmse
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.pca import Pca, fit_pca
from forwardpass.trainer.models.reconstruction import EmbeddingAndReconstruction
from forwardpass.trainer.plots.faces import (
    eigenfaces,
    explained_variance,
    people_map,
    reconstructions,
)
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

_EIGENFACES = 23  # that are drawn
_COMPARED = (5, 20, 80)  # components that photographs are drawn from
_SHOWN = 8  # photographs that are


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of faces-pca; the seed changes nothing."""

    components: Annotated[int, "numbers in the embedding"] = 40


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return faces.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, _run: Run) -> Trained:
    """Finds the components of the training photographs, and describes them."""
    every, variances = fit_pca(torch.from_numpy(data.train.inputs))
    if not 1 <= settings.components <= len(variances):
        raise SettingError(
            f"components={settings.components}: {len(data.train)} photographs have from 1 to "
            f"{len(variances)}"
        )

    published = EmbeddingAndReconstruction(every.first(settings.components))

    def evaluate() -> Evaluation:
        embeddings, drawn = predict(published, data.test.inputs)
        counts = [count for count in _COMPARED if count <= len(variances)]
        shown = data.test.inputs[:_SHOWN]
        return Evaluation(
            metrics={
                "reconstruction_rms_grey_levels": rmse(drawn, data.test.inputs),
                "recognition_accuracy": recognition_accuracy(published, data),
            },
            plots={
                "eigenfaces.png": eigenfaces(
                    every.mean.numpy(),
                    every.components[:_EIGENFACES].numpy(),
                    (variances / variances.sum()).numpy(),
                ),
                "explained-variance.png": explained_variance(
                    _explained(every, data.train.inputs),
                    _explained(every, data.test.inputs),
                    counts,
                ),
                "reconstructions.png": reconstructions(
                    {"photograph": shown}
                    | {
                        f"{count} components": predict(
                            EmbeddingAndReconstruction(every.first(count)), shown
                        )[1]
                        for count in counts
                    }
                ),
                "people-map.png": people_map(embeddings, data.test.inputs, data.test.targets),
            },
        )

    return Trained(
        description=f"Embeds a 92 x 112 greyscale photograph of a face in "
        f"{settings.components} numbers, its coordinates among eigenfaces, and draws it again "
        "from these.",
        reference='Turk and Pentland, "Eigenfaces for recognition", 1991',
        module=published,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs={
            "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
            "reconstruction": model_card_pb2.TENSOR_ROLE_IMAGE,
        },
        golden_inputs={"image": data.test.inputs[:8]},
        # A pixel may be rounded the other way.
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
        evaluate=evaluate,
    )


def _explained(pca: Pca, images: Array) -> Array:
    """Returns the share of the images' variance about the mean that the first component explains,
    the first two, and so on: float64 (components).
    """
    pixels = torch.from_numpy(images)
    total = (pixels - pca.mean).double().square().sum()
    along = pca.embed(pixels).double().square().sum(dim=0)  # (components)
    shares: Array = (along.cumsum(dim=0) / total).numpy()
    return shares
