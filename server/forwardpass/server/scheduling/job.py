"""One piece of work for a model: its arrays, its clock, its deadline and where the answer goes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forwardpass.wire import Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What running a job gave.

    Attributes:
        outputs: Arrays by output name.
        queue_seconds: How long it waited for its turn.
        compute_seconds: How long ONNX Runtime took.
        batch_rows: Rows of the run that answered it.
    """

    outputs: Mapping[str, Array]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(slots=True)
class Job:
    """One piece of work. There is no table of jobs: whoever holds one can answer it.

    Attributes:
        inputs: Arrays by input name, as `Signature.check` passed them.
        rows: How many rows they have.
        outputs: The names of the outputs wanted.
        deadline: When the caller stops waiting, by `time.monotonic`; None for never.
        answered: Takes the answer; called from the worker's thread, so it must only hand on.
        failed: Takes what went wrong instead; as `answered`.
        gone: Set when the caller has gone: the job need not run.
        submitted: When it was handed to the worker, by `time.perf_counter`.
    """

    inputs: Mapping[str, Array]
    rows: int
    outputs: tuple[str, ...]
    deadline: float | None
    answered: Callable[[Answer], None]
    failed: Callable[[Exception], None]
    gone: bool = False
    submitted: float = field(default_factory=time.perf_counter)

    def abandon(self) -> None:
        """Marks the job as not worth running: its caller has gone."""
        self.gone = True
