"""Triton's classification extension: the likeliest classes of an output as "value:index:label"."""

import math
from collections.abc import Sequence

import numpy as np

from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.wire import Array

_INTEGERS = "iu"
_OTHERS_THAN_NUMBERS = "bO"


def is_rankable(spec: TensorSpec) -> bool:
    """Whether an output's elements are numbers, and not bools or strings."""
    return spec.type.dtype.kind not in _OTHERS_THAN_NUMBERS


def classify(scores: Array, labels: Sequence[str], count: int, *, batched: bool) -> Array:
    """Returns the highest scores of each row, the highest first; equal ones by index.

    Args:
        scores: Numbers of any shape; axis 0 counts rows where `batched`, else all is one row.
        labels: The name of each class, as far as they have names.
        count: How many classes to name.
        batched: Whether there are rows.

    Returns:
        Texts of "value:index" or "value:index:label": (rows, count), or (count) without rows; no
        more than a row has elements.
    """
    rows = len(scores) if batched else 1
    width = math.prod(scores.shape[1:] if batched else scores.shape)
    count = min(count, width)
    table = scores.reshape(rows, width)
    if table.dtype.kind in _INTEGERS:
        order, form = np.argsort(~table, axis=1, kind="stable"), "d"
    else:
        table = table.astype(np.float64)
        order, form = np.argsort(-table, axis=1, kind="stable"), "f"
    best = order[:, :count]
    texts = np.empty(best.size, object)
    pairs = zip(best.ravel().tolist(), np.take_along_axis(table, best, 1).ravel(), strict=True)
    for place, (index, value) in enumerate(pairs):
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[place] = f"{value:{form}}:{index}{label}"
    return texts.reshape((rows, count) if batched else (count,))
