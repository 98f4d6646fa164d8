"""mnist-cgan: a generator of handwritten digits that draws the digit it is asked for.

Both players of mnist-gan's game are told the class. Whether a digit is the one that was asked for
is for another model to say: the published mnist-cnn reads 100 of each.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from forwardpass.artefact import draw_latents
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.dcgan import (
    ConditionalDiscriminator,
    ConditionalGenerator,
    ConditionalSampler,
    between,
)
from forwardpass.trainer.plots.curves import adversarial_curves
from forwardpass.trainer.plots.pictures import rows_of_images, sample_grid
from forwardpass.trainer.recipes import mnist_gan
from forwardpass.trainer.training.adversarial import Game, one_thread, play
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import Adversarial
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

NEEDS = mnist_gan.NEEDS
_CLASSES = 10
# Of up to 750 steps each.
_ROUNDS = {"full": 10, "demo": 3}
_JUDGED = 100  # of each class


@dataclass(frozen=True, kw_only=True)
class Settings(Adversarial):
    """Knobs of mnist-cgan."""

    preset: Annotated[
        Literal["full", "demo"], "full: 7,500 steps; demo: 2,250, for a first look"
    ] = "full"
    rounds: Annotated[int, "of 750 steps at most; 0 for the preset's 10 or 3"] = 0
    latent: Annotated[int, "numbers that a digit is made from, beside its class"] = 10

    def resolved(self) -> Self:
        """Returns them with the preset's rounds."""
        return replace(self, rounds=self.rounds or _ROUNDS[self.preset])


def load(settings: Settings, workspace: Workspace) -> mnist_gan.Judged:
    """Returns MNIST and the judge, as of mnist-gan."""
    return mnist_gan.load(settings, workspace)


def train(settings: Settings, data: mnist_gan.Judged, run: Run) -> Trained:
    """Trains both players, and describes the generator."""
    digits = data.digits
    shown = draw_latents(settings.seed, 10, settings.latent)  # the same ones in every picture
    with one_thread():
        averaged, history = play(
            Game(
                generator=ConditionalGenerator(settings.latent, _CLASSES, settings.width),
                discriminator=ConditionalDiscriminator(_CLASSES, settings.width),
                images=torch.from_numpy(digits.train.inputs),
                conditions=(torch.from_numpy(digits.train.targets),),
                latent=settings.latent,
                rounds=settings.rounds,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                average=settings.average,
                picture=lambda now: sample_grid(
                    np.concatenate(_each_class(now, shown)), columns=10
                ),
            ),
            settings,
            run,
        )
    latents = draw_latents(settings.seed, _JUDGED, settings.latent)

    def evaluate() -> Evaluation:
        images = _each_class(averaged, latents)  # (10, 100, 28, 28, 1)
        probabilities = data.judge.read(np.concatenate(images))  # (1000, 10)
        asked = np.arange(_CLASSES).repeat(_JUDGED)
        right = (probabilities.argmax(axis=1) == asked).reshape(_CLASSES, _JUDGED)
        first, last = torch.from_numpy(latents[:1]), torch.from_numpy(latents[1:2])
        return Evaluation(
            metrics={
                "judged_as_asked_fraction": float(right.mean()),
                "judged_as_asked_fraction_of_worst_class": float(right.mean(axis=1).min()),
            },
            plots={
                "classes.png": rows_of_images(
                    images[:, :12],
                    digits.labels,
                    "A class a row, a latent vector a column",
                    "the latent vector of a column is the same in all rows",
                ),
                "interpolation.png": rows_of_images(
                    _each_class(averaged, between(first, last, 11)[0].numpy()),
                    digits.labels,
                    "From one latent vector to another, within each class",
                    "the first latent vector on the left, the second on the right",
                ),
                "losses.png": adversarial_curves(history),
            },
        )

    return Trained(
        description="Draws a 28 x 28 greyscale handwritten digit of the class asked for "
        f"from {settings.latent} normal random numbers.",
        reference='Mirza and Osindero, "Conditional generative adversarial nets", 2014',
        module=ConditionalSampler(averaged),
        inputs={
            "latent": model_card_pb2.TENSOR_ROLE_LATENT,
            "class_index": model_card_pb2.TENSOR_ROLE_CLASS,
        },
        outputs={"images": model_card_pb2.TENSOR_ROLE_IMAGE},
        golden_inputs={"latent": latents[:8], "class_index": np.arange(8)},
        # A value that lies between two grey levels may be rounded either way.
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
        labels=digits.labels,
        judge=data.judge.model,
        evaluate=evaluate,
    )


def _each_class(network: nn.Module, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draws the same latent vectors, (n, latent), as every class: uint8 (10, n, 28, 28, 1)."""
    classes = np.arange(_CLASSES).repeat(len(latents))
    (images,) = predict(ConditionalSampler(network), np.tile(latents, (_CLASSES, 1)), classes)
    return images.reshape(_CLASSES, len(latents), *images.shape[1:])
