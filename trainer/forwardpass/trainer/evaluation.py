"""What a model answers for many rows, and how often it is right."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_argmin
from torch import nn

from forwardpass.trainer.data.dataset import Dataset
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


def balanced_accuracy(scores: Array, targets: Array) -> float:
    """Returns the mean over the classes of the share of their rows that are right.

    Args:
        scores: (n, classes).
        targets: Classes, (n); those of which there is no row do not count.
    """
    right = scores.argmax(axis=1) == targets
    return float(np.mean([right[targets == each].mean() for each in np.unique(targets)]))


def rmse(values: Array, targets: Array) -> float:
    """Returns the root of the mean squared error, in the unit of both, which are of one shape."""
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64) - targets))))


def r2(values: Array, targets: Array) -> float:
    """Returns the share of the targets' variance that the values explain, at most 1.

    It is 0 for the targets' own mean, and below 0 for what is worse.

    Args:
        values: Of the targets' shape.
        targets: Not all the same.
    """
    return 1 - float(np.mean(np.square(values - targets)) / np.var(targets))


def recognition_accuracy(module: nn.Module, data: Dataset) -> float:
    """Returns the share of test rows whose nearest training row is of the same class.

    Args:
        module: Its first output is an embedding, by whose Euclidean distance rows are near.
        data: Inputs with their classes.
    """
    known, asked = (predict(module, split.inputs)[0] for split in (data.train, data.test))
    nearest = pairwise_distances_argmin(asked, known)
    return float(np.mean(data.train.targets[nearest] == data.test.targets))
