"""One run of a model for several jobs; each gets its own answer, or its own failure."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from forwardpass.server.errors import CallError
from forwardpass.server.metrics import ModelCounters
from forwardpass.server.scheduling.collate import collate, split
from forwardpass.server.scheduling.faults import Faults
from forwardpass.server.scheduling.job import Answer, Job, Stop
from forwardpass.wire import Array


class Run(Protocol):
    """Runs the model."""

    def __call__(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None],
    ) -> list[Array]:
        """Returns the outputs named; before it begins, tells `on_begin` how to stop it."""


def run_batch(run: Run, jobs: Sequence[Job], counters: ModelCounters, faults: Faults) -> None:
    """Answers every job.

    Where the run fails, each job is run alone: one that makes a batch fail, fails alone. It is told
    to `faults` unless the request is to blame, or nobody waited for it any more.
    """
    try:
        answers = _answers(run, jobs, counters)
    except Exception as error:  # noqa: BLE001  # handed to the job's own call
        if len(jobs) == 1:
            if not isinstance(error, CallError) and not jobs[0].gone:
                faults.failed()
            jobs[0].failed(error)
            return
        for job in jobs:
            if job.gone:
                job.failed(error)
            else:
                run_batch(run, [job], counters, faults)
    else:
        faults.succeeded()
        for job, answer in zip(jobs, answers, strict=True):
            job.answered(answer)


def _answers(run: Run, jobs: Sequence[Job], counters: ModelCounters) -> list[Answer]:
    stop = Stop(len(jobs))
    for job in jobs:
        job.join(stop)
    rows = sum(job.rows for job in jobs)
    names = jobs[0].outputs
    inputs = collate(jobs)
    started = time.perf_counter()
    values = run(names, inputs, stop.begin)
    seconds = time.perf_counter() - started
    parts = split(dict(zip(names, values, strict=True)), jobs)
    waited = [started - job.submitted for job in jobs]
    counters.ran(rows, waited, seconds)
    return [
        Answer(part, queue_seconds, seconds, rows)
        for part, queue_seconds in zip(parts, waited, strict=True)
    ]
