"""When two answers count as the same."""

import numpy as np

from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


def max_absolute_error(answer: Array, reference: Array) -> float:
    """Returns the greatest |answer - reference|: infinite where the shapes differ, one is NaN and
    the other is not, or texts differ.
    """
    if answer.shape != reference.shape:
        return np.inf
    if reference.dtype.kind in "OUS":
        return 0.0 if (answer == reference).all() else np.inf
    a, r = answer.astype(np.float64), reference.astype(np.float64)
    same = (a == r) | (np.isnan(a) & np.isnan(r))
    error = np.where(same, 0.0, np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, r)))
    return float(np.nan_to_num(error, nan=np.inf, posinf=np.inf).max(initial=0.0))


def within(answer: Array, reference: Array, tolerance: model_card_pb2.Tolerance) -> bool:
    """Whether every element agrees: |answer - reference| <= absolute + relative * |reference|."""
    if answer.shape != reference.shape:
        return False
    if reference.dtype.kind in "OUS":
        return bool((answer == reference).all())
    return np.allclose(
        answer.astype(np.float64),
        reference.astype(np.float64),
        rtol=tolerance.relative,
        atol=tolerance.absolute,
        equal_nan=True,
    )


def relative_difference(answer: Array, reference: Array) -> float:
    """Returns the greatest |answer - reference| as a share of the greatest |reference|.

    Infinite where the shapes differ, one is NaN and the other is not, or elements that are no
    floating-point numbers differ; elements that are infinite in both agree.
    """
    error = max_absolute_error(answer, reference)
    if not error or not np.isfinite(error) or reference.dtype.kind in "iub":
        return np.inf if error else 0.0
    sizes = np.abs(reference.astype(np.float64))
    greatest = float(sizes[np.isfinite(sizes)].max(initial=0.0))
    return error / greatest if greatest else np.inf
