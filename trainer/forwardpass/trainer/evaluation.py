"""What a model answers for many rows, and how often it is right."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from forwardpass.wire import Array

# From inputs (n, ...) to each output, (n, ...), of a module or of a published model.
Answer = Callable[[Array], list[Array]]


@torch.inference_mode()
def predict(module: nn.Module, inputs: Array, rows: int = 1000) -> list[Array]:
    """Returns each of the module's outputs for all inputs, computed so many rows at a time.

    Args:
        module: Put into evaluation mode; takes one input.
        inputs: (n, ...).
        rows: In one run, which bounds memory.
    """
    module.eval()
    device = next(module.parameters()).device
    parts = []
    for batch in torch.split(torch.from_numpy(inputs), rows):
        answers = module(batch.to(device))
        parts.append((answers,) if isinstance(answers, torch.Tensor) else answers)
    return [torch.cat(output).cpu().numpy() for output in zip(*parts, strict=True)]


def accuracy(scores: Array, targets: Array) -> float:
    """Returns the share of rows whose greatest score is the target's.

    Args:
        scores: (n, classes).
        targets: Classes, (n).
    """
    return float(np.mean(scores.argmax(axis=1) == targets))


def rmse(values: Array, targets: Array) -> float:
    """Returns the root of the mean squared error, in the unit of both, which are of one shape."""
    return float(np.sqrt(np.mean(np.square(values - targets))))


def r2(values: Array, targets: Array) -> float:
    """Returns the share of the targets' variance that the values explain, at most 1.

    It is 0 for the targets' own mean, and below 0 for what is worse.

    Args:
        values: Of the targets' shape.
        targets: Not all the same.
    """
    return 1 - float(np.mean(np.square(values - targets)) / np.var(targets))
