"""text: a gated recurrent unit that reads Moby-Dick a character at a time, and writes on.

It is published as its step, from a character and h_t to the scores of the next character and h_t+1:
a server that draws a character from the scores and gives it in again writes a text.
"""

from dataclasses import dataclass
from math import log
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import moby_dick
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.models.recurrent import CharacterGru, CharacterStep, states_along
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.sequences import bits_by_context, state_along
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.settings import Epochs, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

EMBEDDING, WIDTH = 64, 256
# Characters that are read at a time where a whole text is measured, which bounds memory.
_PART = 4096
# Characters of the test text whose states are drawn.
_DRAWN = 90

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of text."""

    epochs: Epochs = 14
    batch_size: Annotated[int, "rows of 128 characters"] = 64
    learning_rate: PeakRate = 5e-3


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return moby_dick.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    network = CharacterGru(len(data.labels), EMBEDDING, WIDTH)

    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(len(data.labels), average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.AdamW(network.parameters(), settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
        ),
        settings,
        run,
    )

    line = torch.from_numpy(data.test.inputs.ravel()[:_DRAWN])
    with torch.no_grad():
        states = states_along(network.cell, network.embedding(line)).numpy()

    def evaluate() -> Evaluation:
        baselines = {
            "how often each character comes": _unigram_bits(data),
            "the same, after each character": _bigram_bits(data),
        }
        (logits,) = predict(network, data.test.inputs, rows=100)  # (rows, characters, window)
        by_context = _bits(logits, data.test.targets).mean(axis=0)  # (window)
        return Evaluation(
            metrics={
                "bits_per_character": _read(network, data),
                "bits_per_character_unigram": baselines["how often each character comes"],
                "bits_per_character_bigram": baselines["the same, after each character"],
                "accuracy": float((logits.argmax(axis=1) == data.test.targets).mean()),
            },
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "bits-by-context.png": bits_by_context(by_context, baselines),
                "hidden-state.png": state_along(
                    states,
                    [(step, _shown(data.labels[token])) for step, token in enumerate(line)],
                    xlabel="character read",
                ),
            },
        )

    return Trained(
        description="Foretells the next character of Moby-Dick, of which the labels are "
        "all there are, and so writes texts in its manner.",
        reference='Cho et al., "Learning phrase representations using RNN encoder-decoder '
        'for statistical machine translation", 2014; Graves, "Generating sequences with '
        'recurrent neural networks", 2013',
        module=CharacterStep(network),
        inputs={
            "token": model_card_pb2.TENSOR_ROLE_TOKEN,
            "h": model_card_pb2.TENSOR_ROLE_STATE,
        },
        outputs={
            "logits": model_card_pb2.TENSOR_ROLE_LOGITS,
            "next_h": model_card_pb2.TENSOR_ROLE_STATE,
        },
        states={"h": "next_h"},
        # As if eight texts had been read, each to another place.
        golden_inputs={"token": line[8:16].numpy(), "h": states[7:15]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )


@torch.no_grad()
def _read(network: CharacterGru, data: Dataset) -> float:
    """Returns the bits a character of the test text, read from its start to its end."""
    tokens = torch.from_numpy(data.test.inputs).reshape(1, -1)  # (1, t)
    targets = torch.from_numpy(data.test.targets).reshape(1, -1)
    state: Tensor | None = None
    total = 0.0
    for part, following in zip(
        torch.split(tokens, _PART, 1), torch.split(targets, _PART, 1), strict=True
    ):
        hidden, state = network.cell(network.embedding(part), state)
        total += functional.cross_entropy(
            network.head(hidden[0]), following[0], reduction="sum"
        ).item()
    return total / tokens.numel() / log(2)


def _bits(logits: Floats, targets: NDArray[np.int64]) -> Floats:
    """Returns the bits that each target takes, (n, t), by logits (n, characters, t)."""
    entropy = functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(targets), reduction="none"
    )
    bits: Floats = (entropy / log(2)).numpy()
    return bits


def _unigram_bits(data: Dataset) -> float:
    """Returns the bits a test character by how often each comes in the training text.

    Each counts once more than it came, so that none is impossible (Laplace).
    """
    counts = np.bincount(data.train.targets.ravel(), minlength=len(data.labels)) + 1.0
    return float(-np.log2(counts / counts.sum())[data.test.targets].mean())


def _bigram_bits(data: Dataset) -> float:
    """Returns the bits a test character by how often each comes after the one before it."""
    size = len(data.labels)
    pairs = data.train.inputs.ravel() * size + data.train.targets.ravel()
    counts = np.bincount(pairs, minlength=size**2).reshape(size, size) + 1.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(shares[data.test.inputs, data.test.targets]).mean())


def _shown(character: str) -> str:
    """Returns a character as it can be seen."""
    return {" ": "␣", "\n": "↵"}.get(character, character)
