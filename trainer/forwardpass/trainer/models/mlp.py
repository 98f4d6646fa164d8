"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

# What may follow a linear layer, by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
}


def mlp(
    widths: Sequence[int], dropout: float = 0.0, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Returns linear layers with ReLU between them: f(x) = w^T max(0, W^T x + c) + b, or deeper.

    [2, 2, 1] is the network that solves XOR in Goodfellow, Bengio and Courville, "Deep Learning",
    section 6.1, with 9 parameters.

    Args:
        widths: Of the input, of each hidden layer, and of the output; at least two.
        dropout: Share of each hidden layer's values that is zeroed in training, in [0, 1).
        activation: What follows each hidden layer, where it is not to be ReLU.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    # Nothing comes after the last linear layer.
    return nn.Sequential(*layers[: -2 if dropout else -1])


class Regressor(nn.Module):
    """What is published of a network that gives numbers: it, with a name for its input.

    Args:
        network: From features (n, inputs) to values (n, outputs).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """From float32 (n, inputs) to float32 (n, outputs)."""
        values: Tensor = self.network(features)
        return values
