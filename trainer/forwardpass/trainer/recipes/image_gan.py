"""image-gan: a generator of pictures like those in a folder of one's own, in grey or in colour.

It is `mnist-gan` for any pictures. No model judges what it draws: that is for whoever looks at it.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch

from forwardpass.artefact import draw_latents
from forwardpass.client.card import ImageInput
from forwardpass.trainer.data import own_photos
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.dcgan import Sampler, between, discriminator, generator
from forwardpass.trainer.plots.curves import adversarial_curves
from forwardpass.trainer.plots.pictures import rows_of_images, sample_grid
from forwardpass.trainer.training.adversarial import ROUND_STEPS, Game, one_thread, play
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.own_data import OwnData
from forwardpass.trainer.training.settings import Adversarial
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Preparation, Resize

# What the layers of both players are made for.
_LEAST, _MOST, _MULTIPLE = 16, 128, 4
_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Settings(OwnData, Adversarial):
    """Knobs of image-gan."""

    data: Annotated[str, "the folder of pictures, in sub-folders or not"] = ""
    size: Annotated[int, "pixels of a side; what is cut off is around the middle"] = 32
    rounds: Annotated[int, "after each of which there is a checkpoint, and a picture"] = 12
    steps: Annotated[int, "of each round"] = ROUND_STEPS
    latent: Annotated[int, "numbers that a picture is made from"] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % _MULTIPLE or not _LEAST <= self.size <= _MOST:
            raise SettingError(
                f"size={self.size}: give a multiple of {_MULTIPLE} from {_LEAST} to {_MOST}"
            )

    def resolved(self) -> Self:
        """Returns them as they are; refuses data that is not there."""
        self.needed("image-gan", data="paintings")
        return self


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns the pictures, cut and brought to the size."""
    image = ImageInput("image", settings.size, settings.size, 3, Preparation(Resize.CROP))
    photos = own_photos.load_unlabelled(
        settings.path("data"), image, settings.limit, workspace.runs, workspace.reporter
    )
    if len(photos.train) < settings.batch_size:
        raise DataError(
            f"there are {len(photos.train)} pictures, and a step takes batch_size="
            f"{settings.batch_size}; give more, or a smaller batch_size"
        )
    return photos


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Returns the generator, and what is said of it."""
    data.left_out.keep(run)
    *_, channels = data.train.inputs.shape
    shown = draw_latents(settings.seed, 64, settings.latent)  # the same ones in every picture
    with one_thread():
        averaged, history = play(
            Game(
                generator=generator(settings.latent, settings.width, settings.size, channels),
                discriminator=discriminator(settings.width, channels, settings.size),
                images=torch.from_numpy(data.train.inputs),
                latent=settings.latent,
                rounds=settings.rounds,
                steps=settings.steps,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                average=settings.average,
                picture=lambda now: sample_grid(predict(Sampler(now), shown)[0], columns=8),
            ),
            settings,
            run,
        )
    sampler = Sampler(averaged)
    latents = draw_latents(settings.seed, _SHOWN, settings.latent)

    def evaluate() -> Evaluation:
        (images,) = predict(sampler, latents)
        ways = between(torch.from_numpy(latents[:8]), torch.from_numpy(latents[8:16]), 11)
        (turning,) = predict(sampler, ways.flatten(0, 1).numpy())  # (8 * 11, size, size, c)
        real = np.linspace(0, len(data.train) - 1, min(len(data.train), _SHOWN)).astype(int)
        return Evaluation(
            plots={
                "samples.png": sample_grid(images, columns=10),
                "real.png": sample_grid(data.train.inputs[real], columns=10),
                "interpolation.png": rows_of_images(
                    turning.reshape(8, 11, *turning.shape[1:]),
                    [f"way {number + 1}" for number in range(8)],
                    "From one latent vector to another, pictures turn into pictures",
                    "the first latent vector on the left, the second on the right",
                ),
                "losses.png": adversarial_curves(history),
            },
        )

    kind = "greyscale" if channels == 1 else "colour"
    return Trained(
        description=f"Draws a {settings.size} x {settings.size} {kind} picture from "
        f"{settings.latent} normal random numbers, like those in {data.name}.",
        reference='Radford, Metz and Chintala, "Unsupervised representation learning with '
        'deep convolutional generative adversarial networks", 2015',
        module=sampler,
        inputs={"latent": model_card_pb2.TENSOR_ROLE_LATENT},
        outputs={"images": model_card_pb2.TENSOR_ROLE_IMAGE},
        golden_inputs={"latent": latents[:8]},
        # A value that lies between two grey levels may be rounded either way.
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
        evaluate=evaluate,
    )
