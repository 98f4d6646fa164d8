"""Runs a version's jobs one after another, on a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from forwardpass.server.errors import CallError
from forwardpass.server.metrics import ModelCounters
from forwardpass.server.scheduling.job import Answer, Job
from forwardpass.wire import Array, Reason

# Runs the model: takes the names of the outputs wanted and the inputs by name.
Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


class Worker:
    """A queue of jobs and the thread that runs them.

    Jobs whose caller has gone or whose deadline has passed are dropped without being run.
    """

    def __init__(self, name: str, run: Run, counters: ModelCounters) -> None:
        self._run = run
        self._counters = counters
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"worker-{name}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue."""
        self._counters.pending.add(1)
        self._jobs.put(job)

    def close(self) -> None:
        """Runs what has been submitted, then ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._counters.pending.add(-1)
            try:
                answer = self._answer(job)
            except Exception as error:  # noqa: BLE001  # handed to the job's own call
                job.failed(error)
            else:
                job.answered(answer)

    def _answer(self, job: Job) -> Answer:
        if job.gone:
            self._counters.dropped["cancelled"].add(1)
            raise CallError(Reason.CANCELLED, "the caller has gone")
        if job.deadline is not None and time.monotonic() >= job.deadline:
            self._counters.dropped["expired"].add(1)
            raise CallError(
                Reason.DEADLINE_EXCEEDED, "the deadline passed in the queue; the model was not run"
            )
        started = time.perf_counter()
        values = self._run(job.outputs, job.inputs)
        ended = time.perf_counter()
        answer = Answer(
            dict(zip(job.outputs, values, strict=True)),
            queue_seconds=started - job.submitted,
            compute_seconds=ended - started,
            batch_rows=job.rows,
        )
        self._counters.ran(job.rows, [answer.queue_seconds], answer.compute_seconds)
        return answer
