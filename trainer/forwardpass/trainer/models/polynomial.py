"""Polynomials of one number."""

import torch
from torch import Tensor, nn

from forwardpass.trainer.models.scaling import Standardize


class Powers(nn.Module):
    """Features by hand: x, x squared and so on, up to a degree."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        """From (n, 1) to (n, degree)."""
        return torch.cat([x**power for power in range(1, self.degree + 1)], dim=1)


def polynomial(degree: int, rows: Tensor) -> nn.Sequential:
    """Returns a linear function of the powers of x, with `degree + 1` parameters.

    Degree 1 is a line. The powers are standardised, so that steps of one length suit each weight.

    Args:
        degree: At least 1.
        rows: What the powers are standardised by (n, 1).
    """
    powers = Powers(degree)
    return nn.Sequential(powers, Standardize.of(powers(rows)), nn.Linear(degree, 1))
