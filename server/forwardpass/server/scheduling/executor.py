"""The threads that run a version's jobs."""

import threading

from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.batch import Run, run_batch
from forwardpass.server.scheduling.failure_detector import FailureDetector
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.queue import BatchPolicy, JobQueue


class ThreadExecutor:
    """A queue of jobs and the threads that take from it.

    Args:
        name: What the threads are called.
        run: Runs the model.
        policy: How jobs are gathered into one run.
        counters: What is counted.
        failure_detector: Judges the model by its runs.
        instances: How many runs may be under way at a time.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        policy: BatchPolicy,
        counters: ModelCounters,
        *,
        failure_detector: FailureDetector,
        instances: int = 1,
    ) -> None:
        self._run = run
        self._counters = counters
        self.failure_detector = failure_detector
        self._queue = JobQueue(policy, counters)
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{name}-{index}", daemon=True)
            for index in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._queue.waiting

    @property
    def is_alive(self) -> bool:
        """Whether every thread is there to run jobs, and to tell them of their timeouts."""
        return self._queue.is_alive and all(thread.is_alive() for thread in self._threads)

    def check_room(self) -> None:
        """Refuses a request before its inputs are read, where its job would be refused.

        Raises:
            CallError: The queue is full.
        """
        self._queue.check_room()

    def submit(self, job: Job) -> None:
        """Puts a job in the queue.

        Raises:
            CallError: The queue is full, or closed.
        """
        self._queue.put(job)

    def close(self) -> None:
        """Runs what has been submitted, then ends the threads."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        self.failure_detector.close()

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for jobs and runs them; False once the queue is closed and empty.

        A frame of its own, so that the thread holds no job while it waits for the next.
        """
        jobs = self._queue.take()
        if jobs:
            run_batch(self._run, jobs, self._counters, self.failure_detector)
        return bool(jobs)
