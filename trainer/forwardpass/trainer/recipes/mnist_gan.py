"""mnist-gan: a generator of handwritten digits, taught by a discriminator that it deceives.

How good its digits are is for another model to say: the published mnist-cnn reads 1,000 of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from forwardpass.artefact import MODEL_FILE, draw_latents, file_digest
from forwardpass.trainer.data import mnist
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.publish import newest_version
from forwardpass.trainer.export.release import Published, Trained, release, software
from forwardpass.trainer.models.dcgan import Sampler, between, discriminator, generator
from forwardpass.trainer.plots.curves import adversarial_curves
from forwardpass.trainer.plots.pictures import rows_of_images, sample_grid
from forwardpass.trainer.recipes import find_recipe
from forwardpass.trainer.training.adversarial import Game, one_thread, play
from forwardpass.trainer.training.checkpoints import open_run
from forwardpass.trainer.training.seeds import seed_everything
from forwardpass.trainer.training.settings import Adversarial, fingerprint
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

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


def run(settings: Settings, workspace: Workspace) -> Published:
    """Trains both players and publishes the next version of mnist-gan."""
    # The card, and the run's name, say what was done.
    settings = replace(settings, rounds=settings.rounds or ROUNDS[settings.preset])
    data = mnist.load(workspace.cache, workspace.reporter, settings.limit)
    judge = find_judge(settings.limit, workspace)
    shown = draw_latents(settings.seed, 64, settings.latent)  # the same ones in every picture

    seed_everything(settings.seed, "weights")
    forger, critic = generator(settings.latent, settings.width), discriminator(settings.width)

    key = fingerprint("mnist-gan", settings, data.digest(), software())
    with open_run(workspace.runs / "mnist-gan" / key) as folder:
        with one_thread():
            averaged, history = play(
                Game(
                    generator=forger,
                    discriminator=critic,
                    images=torch.from_numpy(data.train.inputs),
                    latent=settings.latent,
                    rounds=settings.rounds,
                    batch_size=settings.batch_size,
                    learning_rate=settings.learning_rate,
                    average=settings.average,
                    picture=lambda now: sample_grid(predict(Sampler(now), shown)[0], columns=8),
                ),
                settings,
                folder,
                workspace.reporter,
            )

        sampler = Sampler(averaged)
        latents = draw_latents(settings.seed, _JUDGED, settings.latent)
        (images,) = predict(sampler, latents)
        probabilities = judge.read(images)
        classes = np.bincount(probabilities.argmax(axis=1), minlength=10)
        ways = between(torch.from_numpy(latents[:8]), torch.from_numpy(latents[8:16]), 11)
        (turning,) = predict(sampler, ways.flatten(0, 1).numpy())  # (8 * 11, 28, 28, 1)
        source = data.source()
        source.test_rows = 0  # it is judged by what it draws
        return release(
            Trained(
                recipe="mnist-gan",
                description=f"Draws a 28 x 28 greyscale handwritten digit from {settings.latent} "
                "normal random numbers.",
                reference='Radford, Metz and Chintala, "Unsupervised representation learning with '
                'deep convolutional generative adversarial networks", 2015',
                settings=settings,
                module=sampler,
                inputs={"latent": model_card_pb2.TENSOR_ROLE_LATENT},
                outputs={"images": model_card_pb2.TENSOR_ROLE_IMAGE},
                golden_inputs={"latent": latents[:8]},
                metrics={
                    "judged_fraction": float((probabilities.max(axis=1) >= _CERTAIN).mean()),
                    "smallest_class_share": float(classes.min() / _JUDGED),
                },
                source=source,
                judge=judge.model,
                # A value that lies between two grey levels may be rounded either way.
                tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
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
            ),
            workspace,
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that reads digits.

    Attributes:
        model: What it is.
        read: From images, uint8 (n, 28, 28, 1), to the probability of each digit, (n, 10).
    """

    model: model_card_pb2.PublishedModel
    read: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def find_judge(limit: int, workspace: Workspace) -> Judge:
    """Returns the newest mnist-cnn as a judge; it is trained first where there is none.

    Args:
        limit: The setting, for the judge's training.
        workspace: Whose models it is among.
    """
    folder = newest_version(workspace.models, "mnist-cnn")
    if folder is None:
        workspace.reporter.note("no mnist-cnn is published to judge the digits: training it first")
        judge = find_recipe("mnist-cnn")
        folder = judge.run(judge.settings(limit=limit), workspace).folder
    workspace.reporter.note(f"the judge is {folder}")
    session = open_session((folder / MODEL_FILE).read_bytes())

    def read(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(["probabilities"], {"image": images})[0]
        return probabilities

    model = model_card_pb2.PublishedModel(
        name=folder.parent.name, version=int(folder.name), sha256=file_digest(folder / MODEL_FILE)
    )
    return Judge(model, read)
