"""Runs a cheap model on the transport's own thread, which costs no hand-over."""

from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.batch import Run, run_batch
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.queue import BatchPolicy, WaitList
from forwardpass.server.transport.tick import Tick


class InlineExecutor:
    """Runs the jobs that arrive in a tick of the transport together, at the tick's end.

    A job of more rows than the transport may be held up for goes to a executor with a thread.

    Args:
        tick: The transport's.
        run: Runs the model.
        policy: How jobs are gathered into one run; its rows are the most that run here.
        counters: What is counted.
        executor: Takes the larger jobs.
    """

    def __init__(
        self,
        tick: Tick,
        run: Run,
        policy: BatchPolicy,
        counters: ModelCounters,
        executor: ThreadExecutor,
    ) -> None:
        self._tick = tick
        self._run = run
        self._most_rows = policy.max_rows
        self._waiting = WaitList(policy, counters)
        self._counters = counters
        self._executor = executor
        self.failure_detector = executor.failure_detector

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting.count + self._executor.waiting

    def check_room(self) -> None:
        """Refuses a request before its inputs are read, where its job would be refused.

        Raises:
            CallError: The queue is full.
        """
        self._waiting.check_room()

    def submit(self, job: Job) -> None:
        """Puts a job in the queue; on the transport's thread.

        Raises:
            CallError: The queue is full, or closed.
        """
        if job.rows > self._most_rows:
            self._executor.submit(job)
            return
        self._waiting.put(job)
        if self._waiting.count == 1:
            self._tick.defer(self._work)

    def close(self) -> None:
        """Ends the thread, when no call has a lease any more: so there is no job here."""
        self._executor.close()

    def _work(self) -> None:
        """Makes one run; what is left waits for the tick after the events that are ready now."""
        jobs, dropped = self._waiting.gather()
        for job, reason in dropped:
            self._waiting.drop(job, reason)
        if self._waiting.count:
            self._tick.defer(self._work)
        if jobs:
            run_batch(self._run, jobs, self._counters, self.failure_detector, on_transport=True)
