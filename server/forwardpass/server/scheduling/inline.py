"""Runs a cheap model on the transport's own thread, which costs no hand-over."""

from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.batch import Run, run_batch
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.queue import Gathering, Lineup
from forwardpass.server.scheduling.worker import Worker
from forwardpass.server.transport.turn import Turn


class InlineWorker:
    """Runs the jobs that arrive in a turn of the transport together, at the turn's end.

    A job of more rows than the transport may be held up for goes to a worker with a thread.

    Args:
        turn: The transport's.
        run: Runs the model.
        gathering: How jobs are gathered into one run; its rows are the most that run here.
        counters: What is counted.
        worker: Takes the larger jobs.
    """

    def __init__(
        self, turn: Turn, run: Run, gathering: Gathering, counters: ModelCounters, worker: Worker
    ) -> None:
        self._turn = turn
        self._run = run
        self._most_rows = gathering.max_rows
        self._lineup = Lineup(gathering, counters)
        self._counters = counters
        self._worker = worker
        self.faults = worker.faults

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._lineup.count + self._worker.waiting

    def check_room(self) -> None:
        """Refuses a request before its inputs are read, where its job would be refused.

        Raises:
            CallError: The queue is full.
        """
        self._lineup.check_room()

    def submit(self, job: Job) -> None:
        """Puts a job in the queue; on the transport's thread.

        Raises:
            CallError: The queue is full, or closed.
        """
        if job.rows > self._most_rows:
            self._worker.submit(job)
            return
        self._lineup.put(job)
        if self._lineup.count == 1:
            self._turn.put_off(self._work)

    def close(self) -> None:
        """Ends the thread, when no call has a lease any more: so there is no job here."""
        self._worker.close()

    def _work(self) -> None:
        """Makes one run; what is left waits for the turn after the events that are ready now."""
        jobs, dropped = self._lineup.gather()
        for job, reason in dropped:
            self._lineup.drop(job, reason)
        if self._lineup.count:
            self._turn.put_off(self._work)
        if jobs:
            run_batch(self._run, jobs, self._counters, self.faults, on_transport=True)
