"""What the tests of scheduling share: jobs that keep what they are given, and threads that end."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.job import Answer, Job, JobGroup, Outcome
from forwardpass.wire import Array

T = TypeVar("T")
# No test waits this long; one that would is broken, and says so here.
PATIENCE = 30.0
DAY = 24 * 3600.0
# By `time.monotonic`.
PAST = time.monotonic() - 1
FUTURE = time.monotonic() + DAY


class KeepingJob(Job):
    """A job that keeps what it is given, however often.

    Attributes:
        given: Its answers and its failures.
        thread: Which thread gave it the last of them.
    """

    __slots__ = ("_ended", "_inputs", "given", "thread")

    def __init__(
        self,
        inputs: Mapping[str, Array],
        *,
        rows: int | None = None,
        outputs: tuple[str, ...] = ("y",),
        deadline: float | None = None,
        timeout: float | None = None,
        submitted: float | None = None,
        priority: int = 0,
        group: JobGroup | None = None,
        alone: bool = False,
    ) -> None:
        super().__init__(
            len(next(iter(inputs.values()))) if rows is None else rows,
            outputs,
            deadline,
            time.perf_counter() if submitted is None else submitted,
            priority,
            group,
            timeout=timeout,
            alone=alone,
        )
        self._inputs = inputs
        self._ended = threading.Event()
        self.given: list[Answer | Exception] = []
        self.thread: threading.Thread | None = None

    @property
    def inputs(self) -> Mapping[str, Array]:
        return self._inputs

    def answered(self, answer: Answer) -> None:
        self._take(answer)

    def failed(self, error: Exception) -> None:
        self._take(error)

    def wait(self) -> None:
        """Waits until it has been given something."""
        assert self._ended.wait(PATIENCE)

    @property
    def answer(self) -> Answer:
        """The one thing that it was given, which is an answer."""
        (answer,) = self.given
        assert isinstance(answer, Answer), answer
        return answer

    @property
    def error(self) -> Exception:
        """The one thing that it was given, which is a failure."""
        (error,) = self.given
        assert isinstance(error, Exception), error
        return error

    def _take(self, given: Answer | Exception) -> None:
        self.given.append(given)
        self.thread = threading.current_thread()
        self._ended.set()


class Alike:
    """A group whose jobs each get their own rows; it keeps what it was asked.

    Attributes:
        gathered: The jobs that were joined, each time.
        answers: The jobs that were answered together, each time, and the run.
    """

    def __init__(self) -> None:
        self.gathered: list[list[Job]] = []
        self.answers: list[tuple[list[Job], Outcome]] = []

    def gather(self, jobs: Sequence[Job]) -> Mapping[str, Array]:
        self.gathered.append(list(jobs))
        return {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}

    def answer(self, jobs: Sequence[Job], run: Outcome) -> None:
        self.answers.append((list(jobs), run))
        for index, job in enumerate(jobs):
            job.answered(Answer(run, index * job.rows, job.rows, 0.0))


class Background(Generic[T]):
    """A function on a thread of its own, which the test waits for in the end."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._returned: list[T] = []
        self._thread = threading.Thread(
            target=lambda: self._returned.append(function()), daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> T:
        """Returns what the function has returned, once it has."""
        self._thread.join(PATIENCE)
        assert not self.running
        (value,) = self._returned
        return value


def numbers(first: int, rows: int, width: int = 2) -> Array:
    """Returns rows that differ from all rows of other numbers: each begins with its number."""
    column = np.arange(first, first + rows, dtype=np.int64)[:, np.newaxis]
    return np.concatenate([column, *[column * 10 + place for place in range(1, width)]], axis=1)


def job(rows: int = 1, first: int = 0, width: int = 2, **options: Any) -> KeepingJob:
    """Returns a job of numbered rows."""
    return KeepingJob({"x": numbers(first, rows, width)}, **options)


def watching() -> list[threading.Thread]:
    """Returns the threads on which models are tried."""
    return [thread for thread in threading.enumerate() if thread.name == "failure_detector"]


def settle() -> None:
    """Waits until no model is being tried any more."""
    for thread in watching():
        thread.join(PATIENCE)
        assert not thread.is_alive()


def healthy() -> FailureDetector:
    """Returns a detector whose model computes whenever it is tried."""
    return FailureDetector(lambda: None, lambda: None)
