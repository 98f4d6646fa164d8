"""Networks that take the columns of a table: numbers, of which some may be missing, and classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forwardpass.trainer.models.mlp import mlp
from forwardpass.trainer.models.scaling import Standardize

# A number so many deviations away counts as no further off, even an infinite one.
_FARTHEST = 10.0


class Features(nn.Module):
    """What is made of the columns before the first layer.

    Numbers get mean 0 and deviation 1; one that is missing becomes the mean, and a column of which
    some are missing gets another one that says where. The other columns stay as they are.

    Args:
        numbers: The columns of numbers that are learned from, NaN where one is missing (rows, k).
    """

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        given = ~numbers.isnan()
        counts = given.sum(dim=0).clamp(min=1)
        values = numbers.double().nan_to_num()
        mean = values.sum(dim=0) / counts
        variance = torch.where(given, values - mean, 0.0).square().sum(dim=0) / counts
        # A column that does not vary becomes 0.
        deviation = torch.where(variance > 0, variance, 1.0).sqrt()
        self.standardize = Standardize(mean.float(), deviation.float())
        self.count = numbers.shape[1]
        self.gaps = torch.nonzero(~given.all(dim=0))[:, 0].tolist()

    def width(self, columns: int) -> int:
        """Returns how many features so many columns make."""
        return columns + len(self.gaps)

    def forward(self, columns: Tensor) -> Tensor:
        """From float32 (n, columns), the numbers first, to features (n, columns + gaps)."""
        numbers, others = columns[:, : self.count], columns[:, self.count :]
        missing = numbers.isnan()
        scaled = self.standardize(numbers).clamp(-_FARTHEST, _FARTHEST)
        filled = torch.where(missing, torch.zeros_like(scaled), scaled)
        return torch.cat([filled, missing[:, self.gaps].to(filled.dtype), others], dim=1)


def table_network(
    features: Features, columns: int, hidden: Sequence[int], outputs: int, dropout: float
) -> nn.Sequential:
    """Returns a multi-layer perceptron on a table's columns.

    Args:
        features: Made of the columns before the first layer.
        columns: How many there are.
        hidden: Units of each hidden layer.
        outputs: Of the last layer.
        dropout: Share of the hidden units that is zeroed in training, in [0, 1).
    """
    return nn.Sequential(features, mlp([features.width(columns), *hidden, outputs], dropout))
