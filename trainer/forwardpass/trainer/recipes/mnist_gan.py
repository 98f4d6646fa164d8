"""mnist-gan: a generator of handwritten digits, taught by a discriminator that it deceives.

How good its digits are is for another model to say: the published mnist-cnn reads 1,000 of them.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from forwardpass.artefact import MODEL_FILE, draw_latents
from forwardpass.trainer.averaging import follow
from forwardpass.trainer.data import mnist
from forwardpass.trainer.errors import DivergedError
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.publish import newest_version
from forwardpass.trainer.export.release import Published, Trained, release, software
from forwardpass.trainer.fit import Epoch, make_fabric
from forwardpass.trainer.models.dcgan import Sampler, discriminator, generator
from forwardpass.trainer.plots.curves import adversarial_curves
from forwardpass.trainer.plots.pictures import sample_grid
from forwardpass.trainer.recipes import mnist_cnn
from forwardpass.trainer.run import Run, open_run
from forwardpass.trainer.seeds import generator as draws
from forwardpass.trainer.seeds import seed_everything
from forwardpass.trainer.settings import Settings as BaseSettings
from forwardpass.trainer.settings import fingerprint
from forwardpass.trainer.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# A round is what lies between two checkpoints, and at most so many steps.
_ROUND_STEPS = 750
_ROUNDS = {"full": 12, "demo": 3}
# A generated image counts as a digit where the judge gives some class this much.
_CERTAIN = 0.9
_JUDGED = 1_000


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of mnist-gan."""

    preset: Literal["full", "demo"] = "full"  # 9,000 steps, or 2,250 for a first look
    rounds: int = 0  # of 750 steps at most; 0 for the preset's 12 or 3
    batch_size: int = 32
    learning_rate: float = 2e-3  # of both players
    latent: int = 10  # numbers that a digit is made from
    width: int = 32  # channels of the outermost layers, of both players
    average: float = 0.999  # decay a step of the published generator's moving average


def run(settings: Settings, workspace: Workspace) -> Published:
    """Trains both players and publishes the next version of mnist-gan."""
    data = mnist.load(workspace.cache, workspace.reporter, settings.limit)
    judge = _judge(settings, workspace)

    key = fingerprint("mnist-gan", settings, data.digest(), software())
    with open_run(workspace.runs / "mnist-gan" / key) as folder:
        with _one_thread():
            real = torch.from_numpy(data.train.inputs)
            sampler, history = _play(real, settings, folder, workspace)

        latents = draw_latents(settings.seed, _JUDGED, settings.latent)
        images = _images(sampler, latents)
        (probabilities,) = judge.run(["probabilities"], {"image": images})
        classes = np.bincount(probabilities.argmax(axis=1), minlength=10)
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
                # A value that lies between two grey levels may be rounded either way.
                tolerance=model_card_pb2.Tolerance(relative=0, absolute=1),
                plots={
                    "samples.png": sample_grid(images[:100], columns=10),
                    "losses.png": adversarial_curves(history),
                },
            ),
            workspace,
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Has torch compute on one thread.

    A step is so small that a second thread gains little on an idle machine (26 ms for 37), and on
    a busy one, where the two wait for each other, costs a multiple (250 ms).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _play(
    images: Tensor, settings: Settings, run: Run, workspace: Workspace
) -> tuple[Sampler, list[Epoch]]:
    """Trains generator and discriminator by turns: returns the averaged generator, and losses.

    The game is V(D, G) = E log D(x) + E log(1 - D(G(z))), which the discriminator D raises and the
    generator G lowers (Goodfellow et al., "Generative adversarial nets", 2014). D gives the
    logarithm of its odds, so log D(x) is -softplus(-D) and log(1 - D(x)) is -softplus(D). The
    generator raises E log D(G(z)) instead, as the paper does, since that has a slope where D is
    certain.

    Args:
        images: uint8 (n, 28, 28, 1), all of which are real.
        settings: Of the recipe.
        run: Where checkpoints and a picture a round go.
        workspace: Where progress is told.

    Raises:
        DivergedError: A loss became infinite or NaN.
    """
    seed_everything(settings.seed, "weights")
    fabric = make_fabric(settings)
    forger, critic = generator(settings.latent, settings.width), discriminator(settings.width)
    betas = (0.5, 0.999)  # the paper's
    forger, forger_steps = fabric.setup(
        forger, torch.optim.Adam(forger.parameters(), settings.learning_rate, betas)
    )
    critic, critic_steps = fabric.setup(
        critic, torch.optim.Adam(critic.parameters(), settings.learning_rate, betas)
    )
    averaged = copy.deepcopy(forger.module).requires_grad_(requires_grad=False)
    state: dict[str, Any] = {
        "generator": forger,
        "discriminator": critic,
        "generator_optimizer": forger_steps,
        "discriminator_optimizer": critic_steps,
        "averaged": averaged,
        "history": [],
    }
    if run.load(fabric, "play", state):
        workspace.reporter.note(f"resumed after round {len(state['history'])} from {run.folder}")
    history: list[Epoch] = state["history"]
    sampler = Sampler(averaged)
    shown = draw_latents(settings.seed, 64, settings.latent)  # the same faces in every picture
    rounds = settings.rounds or _ROUNDS[settings.preset]
    steps = max(1, min(_ROUND_STEPS, len(images) // settings.batch_size))

    with workspace.reporter.epochs(rounds, steps, len(history), unit="round") as bar:
        for number in range(len(history), rounds):
            noise = draws(settings.seed, "noise", number)
            totals = np.zeros(2)
            forger.train()
            for step, batch in enumerate(_batches(images, steps, settings, number)):
                real = fabric.to_device(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)
                latent = torch.randn((len(batch), settings.latent), generator=noise)
                fake = forger(fabric.to_device(latent))  # (n, 1, 28, 28)

                # The discriminator sees real and false in batches of their own, so that batch
                # normalization does not mix them.
                critic_loss = softplus(-critic(real)).mean()
                critic_loss = critic_loss + softplus(critic(fake.detach())).mean()
                critic_steps.zero_grad()
                fabric.backward(critic_loss)
                critic_steps.step()

                critic.requires_grad_(requires_grad=False)
                forger_loss = softplus(-critic(fake)).mean()
                forger_steps.zero_grad()
                fabric.backward(forger_loss)
                forger_steps.step()
                critic.requires_grad_(requires_grad=True)

                follow(averaged, forger.module, settings.average, number * steps + step)
                losses = np.array([forger_loss.item(), critic_loss.item()])
                if not np.isfinite(losses).all():
                    raise DivergedError(
                        f"the losses are {losses[0]:g} and {losses[1]:g} at step {step + 1} of "
                        f"round {number + 1}, with a learning rate of {settings.learning_rate:g}; "
                        "nothing was published. Try a smaller learning_rate."
                    )
                totals += losses
                bar.step(number, losses[1])
            forger_mean, critic_mean = (totals / steps).tolist()
            history.append({"generator_loss": forger_mean, "discriminator_loss": critic_mean})
            pictures = sample_grid(_images(sampler, shown), columns=8)
            run.keep_picture(f"round-{number + 1:02}.png", pictures)
            run.save(fabric, "play", state)
            bar.epoch(number, history[-1])
    return sampler.to("cpu"), history


def _batches(images: Tensor, steps: int, settings: Settings, number: int) -> Iterator[Tensor]:
    order = torch.randperm(len(images), generator=draws(settings.seed, "order", number))
    size = settings.batch_size
    for batch in torch.split(order[: steps * size], size):
        yield images[batch]


def _images(sampler: Sampler, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = predict(sampler, latents)[0]
    return images


def _judge(settings: Settings, workspace: Workspace) -> Any:
    """Returns ONNX Runtime's session of the newest mnist-cnn, which is trained where none is."""
    folder = newest_version(workspace.models, "mnist-cnn")
    if folder is None:
        workspace.reporter.note("no mnist-cnn is published to judge the digits: training it first")
        folder = mnist_cnn.run(mnist_cnn.Settings(limit=settings.limit), workspace).folder
    workspace.reporter.note(f"the judge is {folder}")
    return open_session((folder / MODEL_FILE).read_bytes())
