"""mnist-gan: a generator of handwritten digits, taught by a discriminator that it deceives.

How good its digits are is for another model to say: the published mnist-cnn reads 1,000 of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from forwardpass.artefact import MODEL_FILE, draw_latents, file_digest
from forwardpass.trainer.data import mnist
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.models.dcgan import Sampler, between, discriminator, generator
from forwardpass.trainer.plots.curves import adversarial_curves
from forwardpass.trainer.plots.pictures import rows_of_images, sample_grid
from forwardpass.trainer.training.adversarial import Game, one_thread, play
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import Adversarial
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# It judges what is drawn.
NEEDS = ("mnist-cnn",)
# Of up to 750 steps each.
ROUNDS = {"full": 12, "demo": 3}
# A generated image counts as a digit where the judge gives some class this much.
_CERTAIN = 0.9
_JUDGED = 1_000


@dataclass(frozen=True, kw_only=True)
class Settings(Adversarial):
    """Knobs of mnist-gan."""

    preset: Annotated[
        Literal["full", "demo"], "full: 9,000 steps; demo: 2,250, for a first look"
    ] = "full"
    rounds: Annotated[int, "of 750 steps at most; 0 for the preset's 12 or 3"] = 0
    latent: Annotated[int, "numbers that a digit is made from"] = 10

    def resolved(self) -> Self:
        """Returns them with the preset's rounds."""
        return replace(self, rounds=self.rounds or ROUNDS[self.preset])


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that reads digits.

    Attributes:
        model: What it is.
        read: From images, uint8 (n, 28, 28, 1), to the probability of each digit, (n, 10).
    """

    model: model_card_pb2.PublishedModel
    read: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Digits to draw alike, and the judge of what is drawn.

    Attributes:
        digits: Of which the training rows alone are looked at.
        judge: Published before.
    """

    digits: Dataset
    judge: Judge

    def digest(self) -> str:
        """Returns the SHA-256 of the digits; the judge changes nothing of what is drawn."""
        return self.digits.digest()

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of the digits."""
        source = self.digits.source()
        source.test_rows = 0  # it is judged by what it draws
        return source


def load(settings: Adversarial, workspace: Workspace) -> Judged:
    """Returns MNIST and the judge."""
    digits = mnist.load(workspace.cache, workspace.reporter, settings.limit)
    folder = workspace.needed["mnist-cnn"]
    workspace.reporter.note(f"the judge is {folder}")
    return Judged(digits, _judge(folder))


def train(settings: Settings, data: Judged, run: Run) -> Trained:
    """Trains both players, and describes the generator."""
    shown = draw_latents(settings.seed, 64, settings.latent)  # the same ones in every picture
    with one_thread():
        averaged, history = play(
            Game(
                generator=generator(settings.latent, settings.width),
                discriminator=discriminator(settings.width),
                images=torch.from_numpy(data.digits.train.inputs),
                latent=settings.latent,
                rounds=settings.rounds,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                average=settings.average,
                picture=lambda now: sample_grid(predict(Sampler(now), shown)[0], columns=8),
            ),
            settings,
            run,
        )
    sampler = Sampler(averaged)
    latents = draw_latents(settings.seed, _JUDGED, settings.latent)

    def evaluate() -> Evaluation:
        (images,) = predict(sampler, latents)
        probabilities = data.judge.read(images)
        classes = np.bincount(probabilities.argmax(axis=1), minlength=10)
        ways = between(torch.from_numpy(latents[:8]), torch.from_numpy(latents[8:16]), 11)
        (turning,) = predict(sampler, ways.flatten(0, 1).numpy())  # (8 * 11, 28, 28, 1)
        return Evaluation(
            metrics={
                "judged_fraction": float((probabilities.max(axis=1) >= _CERTAIN).mean()),
                "smallest_class_share": float(classes.min() / _JUDGED),
            },
            plots={
                "samples.png": sample_grid(images[:100], columns=10),
                "interpolation.png": rows_of_images(
                    turning.reshape(8, 11, *turning.shape[1:]),
                    [f"way {number + 1}" for number in range(8)],
                    "From one latent vector to another, digits turn into digits",
                    "the first latent vector on the left, the second on the right",
                ),
                "losses.png": adversarial_curves(history),
            },
        )

    return Trained(
        description=f"Draws a 28 x 28 greyscale handwritten digit from {settings.latent} "
        "normal random numbers.",
        reference='Radford, Metz and Chintala, "Unsupervised representation learning with '
        'deep convolutional generative adversarial networks", 2015',
        module=sampler,
        inputs={"latent": model_card_pb2.TENSOR_ROLE_LATENT},
        outputs={"images": model_card_pb2.TENSOR_ROLE_IMAGE},
        golden_inputs={"latent": latents[:8]},
        # A value that lies between two grey levels may be rounded either way.
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
        judge=data.judge.model,
        evaluate=evaluate,
    )


def _judge(folder: Path) -> Judge:
    """Returns a published mnist-cnn as a judge."""
    session = open_session((folder / MODEL_FILE).read_bytes())

    def read(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(["probabilities"], {"image": images})[0]
        return probabilities

    model = model_card_pb2.PublishedModel(
        name=folder.parent.name, version=int(folder.name), sha256=file_digest(folder / MODEL_FILE)
    )
    return Judge(model, read)
