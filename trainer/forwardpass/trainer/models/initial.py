"""Weights to start from: He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015."""

from typing import TypeVar

import torch
from torch import Tensor, nn

# The standard deviation of biases.
_BIAS = 0.1

N = TypeVar("N", bound=nn.Module)


def initialize(network: N) -> N:
    """Draws the weights of convolutions and linear layers anew, in place; returns the network.

    They are normal with variance 2 / inputs of a unit, so that activations neither grow nor vanish
    from one ReLU to the next (section 2.2, equation 10). Biases, 0 in the paper, are small numbers:
    the exporter leaves out what is 0, and the graph would not be that of a trained network.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=_BIAS)
    return network


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Sets batch normalisation's statistics to those of the images, as training would.

    With a mean of 0 and a variance of 1 instead each residual block would double the variance.
    The network is left in training mode.

    Args:
        network: Changed in place.
        images: What it takes, (n, ...); statistics are of all of them together.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # nothing of the old statistics stays
    network.train()
    network(images)
