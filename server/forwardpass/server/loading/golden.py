"""Replays the golden inputs on this machine, before a version may serve."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from forwardpass.artefact import Golden, max_absolute_error, relative_difference, within
from forwardpass.server.errors import quote
from forwardpass.server.onnx.session import Session
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array


class GoldenError(Exception):
    """Answers that are not the golden ones; the message says which output, and how far off."""


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How the golden inputs were answered.

    Attributes:
        rows: How many rows agreed.
        max_absolute_error: The greatest absolute difference from the golden answers.
        row_difference: How far a row among all of them was from the row alone, as a share of its
            greatest element; 0 for a model that is not batched.
    """

    rows: int
    max_absolute_error: float
    row_difference: float


def replay(
    session: Session, golden: Golden, tolerance: model_card_pb2.Tolerance, *, batched: bool
) -> GoldenResult:
    """Runs the golden inputs, all together and, for a batched model, each row alone.

    Raises:
        GoldenError: An output differs from the golden one by more than the tolerance, or all that
            the model gives is NaN.
    """
    names = list(golden.outputs)
    # All of it: a scalar has nothing to cut.
    cuts: list[Any] = [...]
    if batched:
        cuts += [slice(row, row + 1) for row in range(golden.rows)]
    worst = apart = 0.0
    together: dict[str, Array] = {}
    for cut in cuts:
        inputs = {name: array[cut] for name, array in golden.inputs.items()}
        answers = session.run(names, inputs)
        # Golden data that are NaN themselves agree, and prove nothing.
        if all(map(_is_nan, answers)):
            raise GoldenError("golden check: every output is NaN throughout")
        for name, answer in zip(names, answers, strict=True):
            reference = golden.outputs[name][cut]
            error = max_absolute_error(answer, reference)
            if not within(answer, reference, tolerance):
                raise GoldenError(
                    f"golden check: output {quote(name)} is {error:.3g} off the golden answer; the "
                    f"card allows {tolerance.absolute:g} + {tolerance.relative:g} x |answer|"
                )
            worst = max(worst, error)
            apart = max(apart, relative_difference(together.setdefault(name, answer)[cut], answer))
    return GoldenResult(golden.rows, worst, apart)


def _is_nan(answer: Array) -> bool:
    """Whether there are elements, and every one of them is NaN."""
    if answer.dtype.kind in "OUS" or not answer.size:
        return False
    return bool(np.isnan(answer.astype(np.float64)).all())
