"""One piece of work for a model: its arrays, its clock, its deadline and where the answer goes."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from forwardpass.wire import Array

# Of all jobs: it is held for two assignments, and a lock of its own would cost each job more.
_LEAVING = threading.Lock()


@dataclass(slots=True, eq=False)
class Outcome:
    """What one run of a model gave.

    Attributes:
        outputs: Arrays by output name.
        rows: Rows of the run.
        seconds: How long ONNX Runtime took.
    """

    outputs: Mapping[str, Array]
    rows: int
    seconds: float
    _contents: dict[str, bytes] = field(default_factory=dict)

    def content(self, name: str) -> bytes:
        """Returns the bytes of an output, copied once for all jobs of the run."""
        content = self._contents.get(name)
        if content is None:
            content = self._contents[name] = self.outputs[name].tobytes()
        return content


@dataclass(slots=True, eq=False)
class Answer:
    """What running a job gave: its own rows of a run.

    Attributes:
        run: What the run gave that it shared.
        start: The first of its rows.
        rows: How many they are; of a run that was not shared all are its own.
        queue_seconds: How long it waited for its turn.
    """

    run: Outcome
    start: int
    rows: int
    queue_seconds: float

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Its rows of each output, not copied."""
        outputs = self.run.outputs
        if self.rows == self.run.rows:
            return outputs
        own = slice(self.start, self.start + self.rows)
        return {name: array[own] for name, array in outputs.items()}

    def own(self) -> Outcome:
        """Returns its rows as a run that it had alone would have given them."""
        run = self.run
        if self.rows == run.rows:
            return run
        return Outcome(self.outputs, self.rows, run.seconds)


class Stop:
    """Tells a run of the model to stop, once everybody who waits for it has gone."""

    def __init__(self, waiting: int) -> None:
        self._lock = threading.Lock()
        self._waiting = waiting
        self._stop: Callable[[], None] | None = None

    def begin(self, stop: Callable[[], None]) -> None:
        """Says how the run is stopped; at once if nobody waits any more."""
        with self._lock:
            self._stop = stop
            alone = self._waiting == 0
        if alone:
            stop()

    def leave(self) -> None:
        """Says that one of those who wait has gone."""
        with self._lock:
            self._waiting -= 1
            stop = self._stop if self._waiting == 0 else None
        if stop is not None:
            stop()


class JobGroup(Protocol):
    """What jobs alike have in common: as many rows and the same outputs, and inputs of one shape.

    It lets many of them be handled at once.
    """

    def gather(self, jobs: Sequence[Any]) -> Mapping[str, Array]:
        """Returns the inputs of all jobs, joined along axis 0."""

    def answer(self, jobs: Sequence[Any], run: Outcome) -> None:
        """Answers jobs that have shared a run, on the thread of their calls."""


class Job(ABC):
    """One piece of work. There is no table of jobs: whoever holds one can answer it.

    Attributes:
        rows: How many rows the inputs have.
        outputs: The names of the outputs wanted.
        deadline: When the caller stops waiting, or its timeout ends, by `time.monotonic`; None for
            never.
        submitted: When it was handed to the worker, by `time.perf_counter`.
        priority: Jobs of a lower number go first; 0 is the first.
        times_out: Whether it has a timeout, of which its caller must be told.
        alone: Whether it must not share a run with others; then it is of no group.
        group: What it has in common with others; None where nothing is known.
        gone: Whether the caller has gone, so that the job need not run.
        withdraw: Takes it out of the queue that it waits in; None where none holds it for long.
    """

    __slots__ = (
        "_stop",
        "alone",
        "deadline",
        "gone",
        "group",
        "outputs",
        "priority",
        "rows",
        "submitted",
        "times_out",
        "withdraw",
    )

    def __init__(  # noqa: PLR0917  # each is one thing, and by name they would cost more
        self,
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        submitted: float,
        priority: int,
        group: JobGroup | None = None,
        *,
        timeout: float | None = None,
        alone: bool = False,
    ) -> None:
        self.rows = rows
        self.outputs = outputs
        self.times_out = timeout is not None
        self.deadline = deadline if timeout is None else _earliest(deadline, timeout)
        self.submitted = submitted
        self.priority = priority
        self.alone = alone
        self.group = group
        self.gone = False
        self._stop: Stop | None = None
        self.withdraw: Callable[[Job], None] | None = None

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, Array]:
        """Arrays by input name, as `Signature.check` passed them."""

    @abstractmethod
    def answered(self, answer: Answer) -> None:
        """Takes the answer; called from the worker's thread, so it must only hand on."""

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """Takes what went wrong instead; as `answered`."""

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def abandon(self) -> None:
        """Says that the caller has gone: the job need not wait, run, or go on running."""
        with _LEAVING:
            self.gone = True
            stop = self._stop
        if stop is not None:
            stop.leave()
        elif self.withdraw is not None:
            # Behind a long run it would keep its call, with its stream, and its message.
            self.withdraw(self)

    def join(self, stop: Stop) -> None:
        """Says which run the job is part of."""
        with _LEAVING:
            self._stop = stop
            gone = self.gone
        if gone:
            stop.leave()

    def may_share(self, other: "Job") -> bool:
        """Whether one run can answer both: same outputs, same inputs but for their rows."""
        if self.alone or other.alone:
            return False
        if self.group is not None and self.group is other.group:
            return True
        theirs = other.inputs
        return self.outputs == other.outputs and all(
            array.shape[1:] == theirs[name].shape[1:] for name, array in self.inputs.items()
        )


def group_of(jobs: Sequence[Job]) -> JobGroup | None:
    """Returns the group that all jobs are of; None where they differ, or it is not known."""
    group = jobs[0].group
    if group is not None:
        for job in jobs:
            if job.group is not group:
                return None
    return group


def _earliest(deadline: float | None, timeout: float) -> float:
    end = time.monotonic() + timeout
    return end if deadline is None else min(end, deadline)
