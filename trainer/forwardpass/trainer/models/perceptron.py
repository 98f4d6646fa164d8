"""One layer of perceptrons, each with the output unit that suits what it answers."""

from torch import Tensor, nn

from forwardpass.trainer.models.scaling import Standardize


class Perceptrons(nn.Module):
    """Neurons side by side, a = unit(w . x + b), that share nothing but their inputs.

    Args:
        standardize: Of the inputs.
        sums: From standardised inputs (n, features) to the sums of each output (n, neurons), by
            the output's name.
        units: What makes the output of those sums, under the same names.
    """

    def __init__(
        self, standardize: Standardize, sums: dict[str, nn.Linear], units: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        self.standardize = standardize
        self.sums = nn.ModuleDict(sums)
        self.units = nn.ModuleDict(units)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """From float32 (n, features) to each output, float32 (n, neurons)."""
        x = self.standardize(features)
        return tuple(self.units[name](neurons(x)) for name, neurons in self.sums.items())
