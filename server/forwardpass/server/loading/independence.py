"""Whether the rows of a graph of unknown origin are answered independently of one another.

Two things are looked at: the operators of the graph, and what it answers. Rows of very unequal size
share a run, so that what one takes from another shows: with a thousandth beside a thousand, a
maximum or a mean over the rows is that of another row.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from forwardpass.artefact import relative_difference
from forwardpass.server.errors import CallError, RunError, quote
from forwardpass.server.loading.examples import Example
from forwardpass.server.loading.input_values import InputValues
from forwardpass.server.loading.row_mixing import mixing_operator
from forwardpass.server.loading.source import Source
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire import Array
from forwardpass.wire.dtypes import STRING

# Rows of a draw.
_ROWS = 3
# By what the rows of a draw are multiplied, one draw after the other.
_SCALES = ((1.0, 1e-3, 1e3), (1e3, 1.0, 1e-3), (1e-3, 1e3, 1.0))
# From where to where integers of unknown meaning are, in one draw after the other.
_SPANS = ((0, 2), (1, 10), (-9, 10), (1, 100), (-99, 100), (0, 1000))
_TEXTS = ("", "a", "b c", "1", "2.5", "Ünlü")
# How far a row among others may be from the row alone, as a share of its greatest element: sums of
# another order differ by some units in the last place.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}
_TOLERANCE_OF_OTHERS = 1e-4
# Seconds after which no more draws are made.
_BUDGET = 0.5


@dataclass(frozen=True, slots=True)
class Independence:
    """What is known of a graph's rows.

    Attributes:
        is_shown: Whether they are independent, as far as was tried.
        is_disproved: Whether a run has shown that they are not.
        reason: Why they are not known to be independent; empty where they are.
        rows: How many rows have shared a run and were compared with the same rows alone.
        difference: How far they were apart at most, as a share of a row's greatest element.
    """

    is_shown: bool
    is_disproved: bool = False
    reason: str = ""
    rows: int = 0
    difference: float = 0.0


def find_independence(
    session: Session,
    signature: Signature,
    source: Source,
    example: Example,
    values: InputValues,
) -> Independence:
    """Returns what is known of the rows of a graph of which nobody has stated anything.

    Only a graph whose every input and output has any extent on axis 0 is tried; what that axis
    means is not written in the graph, and it may be time.

    Args:
        session: The graph.
        signature: With a batch axis.
        source: Its files.
        example: What it is known to take.
        values: What the graph tells of its inputs' values.
    """
    tried = try_rows(session, signature, example, values)
    if tried.is_shown and (mixing := mixing_operator(source.model)):
        return Independence(is_shown=False, reason=f"rows depend on one another: {mixing}")
    return tried


def fixed_axis(session: Session, signature: Signature) -> str:
    """Returns why axis 0 of the tensors cannot count rows; empty where it may.

    Several inputs must give that axis one name: where they do not, their extents may differ, as in
    a sum of many rows and a single one.
    """
    for spec in (*signature.inputs.values(), *signature.outputs.values()):
        if not spec.shape or spec.shape[0] != -1:
            return f"axis 0 is fixed: {quote(spec.name)} has the shape {list(spec.shape)}"
    first_axes = {node.shape[0] for node in session.inputs}
    if len(session.inputs) > 1 and (len(first_axes) > 1 or None in first_axes):
        return "not probed: the inputs do not give their axis 0 one name"
    return ""


def try_rows(
    session: Session, signature: Signature, example: Example, values: InputValues
) -> Independence:
    """Returns what runs tell of a graph's rows: several together, and each of them alone."""
    names, worst, compared = list(signature.outputs), 0.0, 0
    tolerance = _tolerance(signature)
    refusal = "all that it takes is alike"
    began = time.perf_counter()
    for inputs in _draws(signature, example, values):
        if compared and time.perf_counter() - began > _BUDGET:
            break
        if not any(_rows_differ(array) for array in inputs.values()):
            continue
        try:
            together = session.run(names, inputs)
            singles = [
                session.run(names, {name: a[row : row + 1] for name, a in inputs.items()})
                for row in range(_ROWS)
            ]
        except (CallError, RunError) as error:
            refusal = str(error)
            continue
        for index, name in enumerate(names):
            alone = [single[index] for single in singles]
            difference = _difference(together[index], alone)
            if difference > tolerance:
                told = f"a row of {quote(name)} differs by {difference:.2g} beside others"
                return Independence(
                    is_shown=False, is_disproved=True, reason=f"rows depend on one another: {told}"
                )
            worst = max(worst, difference)
        compared += 1
    if not compared:
        return Independence(is_shown=False, reason=f"not probed: {refusal}")
    return Independence(is_shown=True, rows=_ROWS, difference=worst)


def _difference(together: Array, alone: list[Array]) -> float:
    """Returns how far rows together are from each alone; infinite where there are not as many."""
    if any(not part.shape or len(part) != 1 for part in alone) or together.shape[:1] != (_ROWS,):
        return np.inf
    return max(relative_difference(together[row : row + 1], part) for row, part in enumerate(alone))


def _tolerance(signature: Signature) -> float:
    specs = (*signature.inputs.values(), *signature.outputs.values())
    return max(_TOLERANCE.get(spec.type.name, _TOLERANCE_OF_OTHERS) for spec in specs)


def _rows_differ(array: Array) -> bool:
    return bool((array[1:] != array[:1]).any())


def _draws(
    signature: Signature, example: Example, values: InputValues
) -> Iterator[Mapping[str, Array]]:
    """Yields inputs of _ROWS rows."""
    first = example(_ROWS)
    random = np.random.default_rng(0)
    # The rows of golden data and of warm-ups are unlike; those that are made up need not be.
    yield first
    for span, (scales, sign) in zip(_SPANS, product(_SCALES, (1, -1)), strict=True):
        yield {
            name: _drawn(
                first[name],
                random,
                sign * np.array(scales),
                values.ranges.get(name, span),
                values.texts or _TEXTS,
            )
            for name in signature.inputs
        }


def _drawn(
    like: Array,
    random: np.random.Generator,
    scales: Array,
    span: tuple[int, int],
    texts: tuple[str, ...],
) -> Array:
    """Returns random elements of the type and the extents of an array of _ROWS rows."""
    shape, dtype = like.shape, like.dtype
    if dtype.kind in "iubO":
        begin, end = (0, len(texts)) if dtype == STRING.dtype else _within(dtype, span)
        count, row = end - begin, np.arange(_ROWS).reshape(-1, *[1] * (like.ndim - 1))
        # The second row is unlike the first, be there as few as two values.
        steps = random.integers(1, max(2, count), shape[1:])
        drawn = begin + (random.integers(0, count, shape[1:]) + row * steps) % count
        return np.array(texts, object)[drawn] if dtype == STRING.dtype else drawn.astype(dtype)
    # Most in [0, 1], some whole numbers, a few far out: of one sign in a draw.
    sizes = np.abs(random.standard_normal(shape)) * scales.reshape(-1, *[1] * (like.ndim - 1))
    whole = random.random(shape) < 0.2
    return np.where(whole, np.rint(sizes), sizes).astype(dtype)


def _within(dtype: np.dtype[Any], span: tuple[int, int]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 2
    limits = np.iinfo(dtype)
    return max(span[0], int(limits.min)), min(span[1], int(limits.max))
