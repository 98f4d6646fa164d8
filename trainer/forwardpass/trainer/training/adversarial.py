"""The training loop of generators that learn by deceiving a discriminator, on Lightning Fabric.

The counterpart of `fit`: what is drawn depends on (seed, round) alone, and a checkpoint a round has
all that the next one needs.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from forwardpass.trainer.errors import DivergedError
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.ema import follow
from forwardpass.trainer.training.fit import make_fabric
from forwardpass.trainer.training.fitted import Epoch
from forwardpass.trainer.training.seeds import generator as draws
from forwardpass.trainer.training.settings import Settings

# A round is what lies between two checkpoints, and at most so many steps.
ROUND_STEPS = 750
_BETAS = (0.5, 0.999)  # of both players' Adam: Radford, Metz and Chintala, 2015


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """What `play` does to two networks.

    Attributes:
        generator: From latents (n, latent), and the rows' conditions, to images (n, c, h, w) in
            [-1, 1]; trained in place.
        discriminator: From such images, and the rows' conditions, to the logarithm of the odds
            that each is real, (n, 1); trained in place.
        images: uint8 (n, h, w, c), all of which are real.
        conditions: What each image is known to be, (n, ...) each, which both networks are told;
            none where they are told nothing.
        latent: Numbers in a latent vector.
        rounds: At least 1.
        steps: Of each round; 0 for as many as there are batches, and 750 at most.
        batch_size: Real images in a step, and as many false ones.
        learning_rate: Of both players.
        average: Decay a step of the moving average of the generator's weights.
        picture: From the averaged generator to a PNG, drawn after each round.
    """

    generator: nn.Module
    discriminator: nn.Module
    images: Tensor
    conditions: tuple[Tensor, ...] = ()
    latent: int
    rounds: int
    steps: int = 0
    batch_size: int
    learning_rate: float
    average: float
    picture: Callable[[nn.Module], bytes]


@contextmanager
def one_thread() -> Iterator[None]:
    """Has torch compute on one thread.

    A step of small networks gains little from a second thread on an idle machine (26 ms for 37),
    and on a busy one, where the two wait for each other, costs a multiple (250 ms).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def play(game: Game, settings: Settings, run: Run) -> tuple[nn.Module, list[Epoch]]:
    """Trains both networks by turns: returns the averaged generator, on the CPU, and the losses.

    The game is V(D, G) = E log D(x) + E log(1 - D(G(z))), which the discriminator D raises and the
    generator G lowers (Goodfellow et al., "Generative adversarial nets", 2014). D gives the
    logarithm of its odds, so log D(x) is -softplus(-D) and log(1 - D(x)) is -softplus(D). The
    generator raises E log D(G(z)) instead, as the paper does, since that has a slope where D is
    certain. With conditions y the players are D(x, y) and G(z, y) (Mirza and Osindero, "Conditional
    generative adversarial nets", 2014); the false images of a step are asked for with the
    conditions of its real ones.

    Args:
        game: What to do.
        settings: Give the seed, the device and the precision.
        run: Where checkpoints and a picture a round go, and progress is told; a checkpoint is taken
            up where there is one.

    Returns:
        The generator, and of each round the mean "generator_loss" and "discriminator_loss".

    Raises:
        DivergedError: A loss became infinite or NaN.
    """
    fabric = make_fabric(settings)
    forger, forger_steps = fabric.setup(
        game.generator, torch.optim.Adam(game.generator.parameters(), game.learning_rate, _BETAS)
    )
    critic, critic_steps = fabric.setup(
        game.discriminator,
        torch.optim.Adam(game.discriminator.parameters(), game.learning_rate, _BETAS),
    )
    averaged = copy.deepcopy(game.generator).requires_grad_(requires_grad=False)
    state: dict[str, Any] = {
        "generator": forger,
        "discriminator": critic,
        "generator_optimizer": forger_steps,
        "discriminator_optimizer": critic_steps,
        "averaged": averaged,
        "history": [],
    }
    if run.load(fabric, "play", state):
        run.reporter.note(f"resumed after round {len(state['history'])} from {run.folder}")
    history: list[Epoch] = state["history"]
    steps = game.steps or max(1, min(ROUND_STEPS, len(game.images) // game.batch_size))

    with run.reporter.epochs(game.rounds, steps, len(history), unit="round") as bar:
        for number in range(len(history), game.rounds):
            noise = draws(settings.seed, "noise", number)
            totals = np.zeros(2)
            forger.train()
            for step, batch in enumerate(_batches(game, steps, settings.seed, number)):
                images = game.images[batch].permute(0, 3, 1, 2).float() / 127.5 - 1
                real = fabric.to_device(images)  # (n, c, h, w)
                known = [fabric.to_device(condition[batch]) for condition in game.conditions]
                latent = torch.randn((len(batch), game.latent), generator=noise)
                fake = forger(fabric.to_device(latent), *known)  # (n, c, h, w)

                # The discriminator sees real and false in batches of their own, so that batch
                # normalization does not mix them.
                critic_loss = softplus(-critic(real, *known)).mean()
                critic_loss = critic_loss + softplus(critic(fake.detach(), *known)).mean()
                critic_steps.zero_grad()
                fabric.backward(critic_loss)
                critic_steps.step()

                critic.requires_grad_(requires_grad=False)
                forger_loss = softplus(-critic(fake, *known)).mean()
                forger_steps.zero_grad()
                fabric.backward(forger_loss)
                forger_steps.step()
                critic.requires_grad_(requires_grad=True)

                follow(averaged, game.generator, game.average, number * steps + step)
                losses = np.array([forger_loss.item(), critic_loss.item()])
                if not np.isfinite(losses).all():
                    raise DivergedError(
                        f"the losses are {losses[0]:g} and {losses[1]:g} at step {step + 1} of "
                        f"round {number + 1}, with a learning rate of {game.learning_rate:g}; "
                        "nothing was published. Try a smaller learning_rate."
                    )
                totals += losses
                bar.step(number, losses[1])
            forger_mean, critic_mean = (totals / steps).tolist()
            history.append({"generator_loss": forger_mean, "discriminator_loss": critic_mean})
            run.keep_file(f"round-{number + 1:02}.png", game.picture(averaged))
            run.save(fabric, "play", state)
            bar.epoch(number, history[-1])
    return averaged.to("cpu"), history


def _batches(game: Game, steps: int, seed: int, number: int) -> Iterator[Tensor]:
    drawn = draws(seed, "order", number)
    passes = -(-steps * game.batch_size // len(game.images))
    orders = [torch.randperm(len(game.images), generator=drawn) for _ in range(passes)]
    return iter(torch.split(torch.cat(orders)[: steps * game.batch_size], game.batch_size))
