"""From the units of the data to those that a network learns in, and back."""

from typing import Self

from torch import Tensor, nn


class Standardize(nn.Module):
    """Makes each feature have mean 0 and deviation 1 on the rows that it was measured on.

    Args:
        mean: Of each feature (features).
        deviation: Of each feature (features), above 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Returns one that was measured on these rows: (n, features)."""
        return cls(rows.mean(dim=0), rows.std(dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """From (n, features) in the data's units to (n, features) without units."""
        return (features - self.mean) / self.deviation


class Rescale(Standardize):
    """The way back, after the last layer."""

    def forward(self, features: Tensor) -> Tensor:
        """From (n, features) without units to (n, features) in the data's units."""
        return features * self.deviation + self.mean
