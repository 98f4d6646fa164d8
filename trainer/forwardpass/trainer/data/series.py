"""A time series, cut at two points in time: what comes after is forecast, never learned from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import array_digest
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.v1 import model_card_pb2

Floats = NDArray[np.float32]

_MARKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values at equal distances in time.

    Attributes:
        name: Such as "sunspots".
        origin: The package that it came in, with its version.
        license: What the publisher states; empty where nothing is.
        years: When each was measured, as years and parts of them, or as `clock` says (t).
        values: float32 (t).
        season: After how many values the series does much the same again; 0 for never.
        ticks: Every how many years a picture is marked; 0 for a few evenly spread marks.
        validation: How many values, before the test values, to choose by.
        test: How many values, the last ones, to measure on.
        clock: What `years` counts.
        left_out: What of a person's own data is not used.
    """

    name: str
    origin: str
    license: str
    years: Floats
    values: Floats
    season: int
    ticks: int
    validation: int
    test: int
    clock: str = "year"
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def train(self) -> Floats:
        """The values to learn from: the first."""
        return self.values[: -self.validation - self.test]

    @property
    def known(self) -> Floats:
        """All values before those that are measured on."""
        return self.values[: -self.test]

    @property
    def truth(self) -> Floats:
        """The values that are measured on: the last."""
        return self.values[-self.test :]

    def repeated(self, before: int) -> Floats:
        """Returns the naive forecast of the test values: what came so many values before each."""
        return self.values[-self.test - before : -before]

    def marks(self) -> list[tuple[int, str]]:
        """Returns the values that a picture marks, and what is written there."""
        if self.ticks:
            marked = [at for at, year in enumerate(self.years) if year % self.ticks == 0]
            return [(at, f"{self.years[at]:.0f}") for at in marked]
        spread = np.linspace(0, len(self.years) - 1, _MARKS).astype(int).tolist()
        return [(at, f"{self.years[at]:.6g}") for at in spread]

    def windows(self, length: int) -> tuple[Floats, Floats]:
        """Returns each stretch of the training values, and the same one value later.

        Args:
            length: Values in a stretch, fewer than there are.

        Returns:
            Twice (stretches, length).
        """
        stretches = np.lib.stride_tricks.sliding_window_view(self.train, length + 1)
        return stretches[:, :-1], stretches[:, 1:]

    def digest(self) -> str:
        """Returns the SHA-256 of the values."""
        return array_digest([self.values])

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of it."""
        return model_card_pb2.DataSource(
            name=self.name,
            origin=self.origin,
            license=self.license,
            sha256=self.digest(),
            train_rows=len(self.train),
            test_rows=self.test,
            left_out=self.left_out.counts(),
        )


def read_csv(content: bytes) -> Floats:
    """Returns the numbers in the second column, below a line of headings, as float32."""
    return np.loadtxt(
        content.decode().splitlines(), np.float32, delimiter=",", skiprows=1, usecols=1
    )
