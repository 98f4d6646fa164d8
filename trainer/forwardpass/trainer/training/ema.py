"""An exponential moving average of a network's weights, which often does better than the weights
themselves: Polyak and Juditsky, 1992.
"""

import torch
from torch import nn


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves the average towards the network's parameters and batch statistics.

    Args:
        averaged: A copy of the network that is never trained itself.
        network: The one that is.
        decay: Of the average a step, in [0, 1); smaller at first, when the average knows little.
        step: Steps taken before this one.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    pairs = zip(averaged.state_dict().values(), network.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, weight)
        else:
            mean.copy_(value)
