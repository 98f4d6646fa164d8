"""One run of a model for several jobs; each gets its own answer, or its own failure."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from forwardpass.server.aligned import Aligned, concatenate_aligned
from forwardpass.server.errors import CallError, RunError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.job import Answer, Job, JobGroup, Outcome, Stop, group_of
from forwardpass.wire import Array


class Run(Protocol):
    """Runs the model."""

    def __call__(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None,
    ) -> list[Array]:
        """Returns the outputs named; before it begins, tells `on_begin` how to stop it."""


def run_batch(
    run: Run,
    jobs: Sequence[Job],
    counters: ModelCounters,
    failure_detector: FailureDetector,
    *,
    on_transport: bool = False,
) -> None:
    """Answers every job.

    Where the run fails, each job is run alone: one that makes a batch fail, fails alone. Unless it
    is known to be at fault, or nobody waits for it any more, `failure_detector` tells whether its
    values or the model are.

    Args:
        run: Runs the model.
        jobs: What to answer.
        counters: What is counted.
        failure_detector: Judges the model.
        on_transport: Whether this is the transport's thread: it is the calls' own, and nobody can
            leave during the run, as it would have to tell.
    """
    group = group_of(jobs)
    stop = None if on_transport else Stop(len(jobs))
    try:
        outcome, waited = _run(run, jobs, group, counters, stop)
    except Exception as error:  # noqa: BLE001  # handed to the job's own call
        if len(jobs) == 1:
            jobs[0].failed(_blamed(error, jobs[0], failure_detector))
            return
        for job in jobs:
            if job.gone:
                job.failed(error)
            else:
                run_batch(run, [job], counters, failure_detector, on_transport=on_transport)
    else:
        if on_transport and group is not None:
            group.answer(jobs, outcome)
            return
        start = 0
        for job, queue_seconds in zip(jobs, waited, strict=True):
            job.answered(Answer(outcome, start, job.rows, queue_seconds))
            start += job.rows


def _run(
    run: Run,
    jobs: Sequence[Job],
    group: JobGroup | None,
    counters: ModelCounters,
    stop: Stop | None,
) -> tuple[Outcome, list[float]]:
    """Returns what a run of the jobs gave, and how long each of them had waited for it."""
    rows = 0
    for job in jobs:
        rows += job.rows
        if stop is not None:
            job.join(stop)
    names = jobs[0].outputs
    inputs = collate(jobs, group)
    started = counters.begin_run()
    try:
        values = run(names, inputs, None if stop is None else stop.begin)
        seconds = time.perf_counter() - started
        outputs = dict(zip(names, values, strict=True))
        if len(jobs) > 1:
            check_rows(outputs, rows)
    except Exception:
        # The other jobs are run again, and counted then.
        last = [job for job in jobs if job.gone or len(jobs) == 1]
        counters.run_failed(started, [started - job.submitted for job in last])
        raise
    except BaseException:
        # It held up the transport: all jobs run elsewhere, and are counted there.
        counters.run_failed(started, ())
        raise
    waited = [started - job.submitted for job in jobs]
    counters.ran(started, rows, waited, seconds)
    return Outcome(outputs, rows, seconds), waited


def _blamed(error: Exception, job: Job, failure_detector: FailureDetector) -> Exception:
    """Returns what the job of a failed run is told."""
    if isinstance(error, CallError) or job.gone:
        return error
    is_ours = failure_detector.failed()
    return error.blame_values() if isinstance(error, RunError) and not is_ours else error


def collate(jobs: Sequence[Job], group: JobGroup | None) -> Mapping[str, Array]:
    """Returns the inputs of all jobs, joined along axis 0; those of a job of no group as they are.

    Args:
        jobs: The jobs.
        group: As `group_of` tells.
    """
    if group is not None:
        return group.gather(jobs)
    if len(jobs) == 1:
        return jobs[0].inputs
    return Aligned(
        {name: concatenate_aligned([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
    )


def check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    """Checks that the outputs of a run can be shared out.

    Raises:
        ValueError: An output has not one row for each of the `rows` that went in.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ValueError(f"output {name!r} has shape {array.shape} for {rows} rows")
