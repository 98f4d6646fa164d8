"""What a model answers for many rows, and how often it is right."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from forwardpass.wire import Array

# From inputs (n, ...) to each output, (n, ...), of a module or of a published model.
Answer = Callable[[Array], list[Array]]


@torch.inference_mode()
def predict(module: nn.Module, *inputs: Array, rows: int = 1000) -> list[Array]:
    """Returns each of the module's outputs for all rows, computed so many at a time.

    Args:
        module: Put into evaluation mode.
        inputs: What it takes, in forward's order: (n, ...) each.
        rows: In one run, which bounds memory.
    """
    module.eval()
    device = next(module.parameters()).device
    parts = []
    for batch in zip(*(torch.split(torch.from_numpy(a), rows) for a in inputs), strict=True):
        answers = module(*(tensor.to(device) for tensor in batch))
        parts.append((answers,) if isinstance(answers, torch.Tensor) else answers)
    return [torch.cat(output).cpu().numpy() for output in zip(*parts, strict=True)]


def accuracy(scores: Array, targets: Array) -> float:
    """Returns the share of rows whose greatest score is the target's.

    Args:
        scores: (n, classes).
        targets: Classes, (n).
    """
    return float(np.mean(scores.argmax(axis=1) == targets))
