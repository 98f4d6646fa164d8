"""A data set: three splits that share no row, and where they came from."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

from forwardpass.artefact import array_digest
from forwardpass.pixels import grounds
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

if TYPE_CHECKING:
    from forwardpass.trainer.training.fit import Rows

# Whose pixels are summed up at a time.
_PICTURES = 256


@runtime_checkable
class Data(Protocol):
    """What a recipe loads: a `Dataset`, or whatever else it learns from."""

    def digest(self) -> str:
        """Returns a digest of all that a run's result depends on."""

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of it."""


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs and targets as arrays; axis 0 counts the same rows in both."""

    inputs: Array
    targets: Array

    def rows(self) -> "Rows":
        """Returns the same memory as tensors."""
        # torch takes seconds to import, and whoever fetches data does without.
        import torch

        from forwardpass.trainer.training.fit import Rows

        return Rows(torch.from_numpy(self.inputs), torch.from_numpy(self.targets))

    def head(self, count: int) -> "Split":
        """Returns the first rows."""
        return Split(self.inputs[:count], self.targets[:count])

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows to learn from, to choose weights by, and to measure on.

    Attributes:
        name: Such as "mnist".
        origin: The package that it came in, with its version.
        license: What the publisher states; empty where nothing is.
        labels: The name of each class.
        train: Learned from.
        validation: Chosen by, never learned from.
        test: Measured on once, never chosen by.
        left_out: What of a person's own data is not used.
    """

    name: str
    origin: str
    license: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    left_out: LeftOut = field(default_factory=LeftOut)

    def limited(self, count: int) -> Self:
        """Returns the first rows of each split; 0 for all of them."""
        if not count:
            return self
        return replace(
            self,
            train=self.train.head(count),
            validation=self.validation.head(count),
            test=self.test.head(count),
        )

    def digest(self) -> str:
        """Returns the SHA-256 of every array that training sees or is measured on."""
        splits = (self.train, self.validation, self.test)
        return array_digest(array for split in splits for array in (split.inputs, split.targets))

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of it."""
        return model_card_pb2.DataSource(
            name=self.name,
            origin=self.origin,
            license=self.license,
            sha256=self.digest(),
            train_rows=len(self.train),
            test_rows=len(self.test),
            pixels=_pixel_statistics(self.train.inputs),
            left_out=self.left_out.counts(),
        )


def _pixel_statistics(inputs: Array) -> model_card_pb2.PixelStatistics | None:
    """Returns how bright pictures are; None where the inputs are no pictures, or none."""
    if inputs.dtype != np.uint8 or inputs.ndim != 4 or not len(inputs):
        return None
    total = squares = 0
    ground = np.empty(len(inputs))
    for start in range(0, len(inputs), _PICTURES):
        rows = slice(start, start + _PICTURES)
        # In integers, which no order of summing rounds.
        grey = inputs[rows].sum(axis=3, dtype=np.int32)
        total += int(grey.sum(dtype=np.int64))
        squares += int(np.square(grey).sum(dtype=np.int64))
        ground[rows] = grounds(inputs[rows])
    pixels, channels = inputs[..., 0].size, inputs.shape[3]
    mean = total / pixels
    return model_card_pb2.PixelStatistics(
        mean=mean / (255 * channels),
        deviation=math.sqrt(squares / pixels - mean**2) / (255 * channels),
        ground_mean=ground.mean(),
        ground_deviation=ground.std(),
    )
