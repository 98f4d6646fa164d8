"""How a model's time grows with the rows of a run, measured at load, and what follows from it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from forwardpass.server.errors import CallError, RunError
from forwardpass.server.loading.examples import Example
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature
from forwardpass.wire.dtypes import STRING

# The most rows that are gathered where neither card nor configuration states a number.
DEFAULT_MAX_ROWS = 64
# Seconds of measured runs after which no larger run is; sizes 1 and 2 always are.
_BUDGET = 0.1
_RUNS = 5
# A row among others must cost at least a tenth less than a row alone, or gathering is not worth it.
_WORTH = 0.9
# The longest run on the transport's thread: where there is one core the hand-over buys nothing.
_INLINE_SECONDS = 0.002
_INLINE_SECONDS_BESIDE_OTHERS = 0.0002
_INLINE_WORTH = 0.75


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The median time of a run of `rows` rows."""

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether requests are gathered, up to how many rows, and why."""

    enabled: bool
    max_rows: int
    reason: str


def measure_curve(session: Session, example: Example, most: int) -> list[CurvePoint]:
    """Times runs of 1, 2, 4 … `most` rows, captured where the session captures.

    Each size's first run warms it up and is not counted: a GPU takes long over it. A size that the
    graph refuses is the end: it may still be asked for, and says so.
    """
    points: list[CurvePoint] = []
    names = [output.name for output in session.outputs]
    spent = 0.0
    rows = 1
    while rows <= most and (rows <= 2 or spent < _BUDGET):
        inputs = example(rows)
        session.capture(inputs)
        try:
            session.run(names, inputs)
        except (CallError, RunError):
            break
        times: list[float] = []
        while len(times) < _RUNS and (not times or spent < _BUDGET):
            started = time.perf_counter()
            session.run(names, inputs)
            times.append(time.perf_counter() - started)
            spent += times[-1]
        points.append(CurvePoint(rows, median(times)))
        rows *= 2
    return points


def decide(curve: Sequence[CurvePoint], most: int) -> Batching:
    """Returns whether gathering pays, by the time that a row costs at each size."""
    if len(curve) < 2:
        return Batching(enabled=False, max_rows=1, reason="the model takes one row at a time")
    single = curve[0].seconds
    best = min(curve, key=lambda point: point.seconds / point.rows)
    gain = single * best.rows / best.seconds
    told = f"{best.rows} rows in one run take {best.seconds / single:.2g} times as long as one"
    if 1 / gain > _WORTH:
        return Batching(enabled=False, max_rows=1, reason=f"gathering does not pay: {told}")
    # Sizes beyond the best that cost a row about as little: larger runs, fewer of them.
    worth = [p.rows for p in curve if p.seconds / p.rows <= 1.1 * best.seconds / best.rows]
    return Batching(enabled=True, max_rows=min(most, max(worth)), reason=told)


def inline_rows(
    curve: Sequence[CurvePoint], batching: Batching, signature: Signature, cores: int
) -> int:
    """Returns up to how many rows a run may be made on the transport's own thread; 0 for none.

    A run there costs no hand-over, but holds up all other calls, and uses no second core. What a
    run takes must be known: for texts and open extents it depends on the request.
    """
    for spec in signature.inputs.values():
        if spec.type is STRING or not spec.ranked or -1 in spec.shape[1:]:
            return 0
    limit = _INLINE_SECONDS if cores == 1 else _INLINE_SECONDS_BESIDE_OTHERS
    short = [point for point in curve if point.seconds <= limit]
    if not short or not batching.enabled:
        return 1 if short else 0
    # Larger runs elsewhere may be so much cheaper that the hand-over is worth it.
    best = min(point.seconds / point.rows for point in curve)
    most = min(short[-1].rows, batching.max_rows)
    return most if short[-1].seconds / short[-1].rows <= best / _INLINE_WORTH else 0
