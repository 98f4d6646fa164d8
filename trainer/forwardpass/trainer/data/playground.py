"""Points of two classes in the plane, drawn as playground.tensorflow.org draws them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import array_digest
from forwardpass.trainer.data.dataset import Split
from forwardpass.v1 import model_card_pb2

Kind = Literal["circle", "xor", "gaussian", "spiral"]
Floats = NDArray[np.float64]
_POINTS = 500
_CLASSES = np.repeat([1.0, -1.0], _POINTS // 2)
# How far from the centre points lie at most, on either axis, but for noise and gaps.
_EXTENT = 5.0


@dataclass(frozen=True, slots=True)
class Points:
    """Points that were drawn, and how they lie.

    Attributes:
        kind: Which of the four.
        train: Learned from.
        test: Measured on.
    """

    kind: Kind
    train: Split
    test: Split

    def digest(self) -> str:
        """Returns the SHA-256 of the points and their classes."""
        splits = (self.train, self.test)
        return array_digest(array for split in splits for array in (split.inputs, split.targets))

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of them."""
        return model_card_pb2.DataSource(
            name=self.kind,
            origin="drawn by the seed, as playground.tensorflow.org does",
            sha256=self.digest(),
            train_rows=len(self.train),
            test_rows=len(self.test),
        )


def draw(kind: Kind, noise: float, seed: int) -> Split:
    """Returns points as float32 (500, 2) and their classes, -1 or 1, as float32 (500, 1).

    Half are of each class, but for `xor` and a noisy `circle`, where chance has a say. They are in
    no order, so that any part of them is drawn alike.

    Args:
        kind: Which of the four.
        noise: In [0, 0.5]. `circle` and `xor` judge a point as if it lay up to `5 * noise` away
            on either axis, `spiral` moves it by up to `noise`, and the variance of `gaussian`
            goes from 0.5 to 4.
        seed: Of all that is drawn.
    """
    draws = np.random.default_rng(seed)
    points, classes = _KINDS[kind](noise, draws)
    order = draws.permutation(_POINTS)
    return Split(points[order].astype(np.float32), classes[order, None].astype(np.float32))


def _circle(noise: float, draws: np.random.Generator) -> tuple[Floats, Floats]:
    inner = _CLASSES > 0
    radius = draws.uniform(np.where(inner, 0, 0.7), np.where(inner, 0.5, 1)) * _EXTENT
    points = _polar(radius, draws.uniform(0, 2 * np.pi, _POINTS))
    judged = points + noise * draws.uniform(-_EXTENT, _EXTENT, points.shape)
    return points, np.where(np.hypot(*judged.T) < 0.5 * _EXTENT, 1.0, -1.0)


def _xor(noise: float, draws: np.random.Generator) -> tuple[Floats, Floats]:
    points = draws.uniform(-_EXTENT, _EXTENT, (_POINTS, 2))
    points += np.where(points > 0, 0.3, -0.3)  # a gap along both axes
    judged = points + noise * draws.uniform(-_EXTENT, _EXTENT, points.shape)
    return points, np.where(judged.prod(axis=1) >= 0, 1.0, -1.0)


def _gaussian(noise: float, draws: np.random.Generator) -> tuple[Floats, Floats]:
    deviation = np.sqrt(0.5 + 7 * noise)
    return draws.normal(2 * _CLASSES[:, None], deviation, (_POINTS, 2)), _CLASSES


def _spiral(noise: float, draws: np.random.Generator) -> tuple[Floats, Floats]:
    along = np.tile(np.linspace(0, 1, _POINTS // 2, endpoint=False), 2)
    turned = np.where(_CLASSES > 0, 0, np.pi)  # one arm is the other by half a turn
    points = _polar(_EXTENT * along, 1.75 * 2 * np.pi * along + turned)
    return points + noise * draws.uniform(-1, 1, points.shape), _CLASSES


def _polar(radius: Floats, angle: Floats) -> Floats:
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


_KINDS: dict[str, Callable[[float, np.random.Generator], tuple[Floats, Floats]]] = {
    "circle": _circle,
    "xor": _xor,
    "gaussian": _gaussian,
    "spiral": _spiral,
}
