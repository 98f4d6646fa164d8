"""The jobs that wait for one model, and which of them run together next."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.wire import Reason


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How jobs are gathered into one run.

    Attributes:
        max_rows: The most rows of a run; 1 where jobs must not share one.
        max_jobs: The most jobs that may wait.
        priorities: How many priorities there are, at least 1.
        delay: Seconds that a job may wait for others to fill its run.
    """

    max_rows: int
    max_jobs: int
    priorities: int = 1
    delay: float = 0.0


class WaitList:
    """The jobs that wait: first come, first served within a priority; lower numbers first.

    For one thread at a time.
    """

    __slots__ = ("_counters", "_levels", "_policy", "count")

    def __init__(self, policy: BatchPolicy, counters: ModelCounters) -> None:
        self._policy = policy
        self._counters = counters
        self._levels: list[deque[Job]] = [deque() for _ in range(policy.priorities)]
        self.count = 0

    def check_room(self) -> None:
        """Refuses what `put` would refuse, before the work of making a job of it is done.

        Raises:
            CallError: QUEUE_FULL.
        """
        if self.count >= self._policy.max_jobs:
            self._sweep(lambda job: job.gone)
        if self.count >= self._policy.max_jobs:
            raise CallError(
                Reason.QUEUE_FULL,
                f"{self.count} requests wait for the model, the most its queue holds; "
                f"try again in {RETRY_AFTER} s",
                retry_after=RETRY_AFTER,
                facts={"waiting": self.count},
            )

    def put(self, job: Job) -> None:
        """Adds a job.

        Raises:
            CallError: QUEUE_FULL.
        """
        if self.count >= self._policy.max_jobs:
            self.check_room()
        self._levels[min(job.priority, len(self._levels) - 1)].append(job)
        self.count += 1

    def oldest(self) -> Job:
        """Returns the job that has waited longest, whatever its priority."""
        return min((level[0] for level in self._levels if level), key=lambda job: job.submitted)

    def rows(self) -> int:
        """Returns the rows of all jobs."""
        return sum(job.rows for level in self._levels for job in level)

    def gather(self) -> tuple[list[Job], list[tuple[Job, Reason]]]:
        """Takes the jobs that run together next, and those to `drop`, with the reason.

        Jobs whose caller has gone or whose deadline has passed are dropped one by one.
        """
        jobs: list[Job] = []
        dropped: list[tuple[Job, Reason]] = []
        rows, most_rows = 0, self._policy.max_rows
        for level in self._levels:
            passed: list[Job] = []
            while level and (not jobs or rows < most_rows):
                job = level.popleft()
                if job.gone or (job.deadline is not None and job.expired):
                    dropped.append((job, _why(job)))
                elif not jobs or (rows + job.rows <= most_rows and jobs[0].may_share(job)):
                    jobs.append(job)
                    rows += job.rows
                else:
                    passed.append(job)
                    # One that is passed over keeps its place; at most _LOOK_AHEAD are looked at.
                    if len(passed) == _LOOK_AHEAD:
                        break
            level.extendleft(reversed(passed))
        self.count -= len(jobs) + len(dropped)
        return jobs, dropped

    def remove(self, job: Job) -> bool:
        """Takes out a job, which is to be dropped; whether it was there."""
        try:
            self._levels[min(job.priority, len(self._levels) - 1)].remove(job)
        except ValueError:
            return False
        self.count -= 1
        return True

    def drop(self, job: Job, reason: Reason) -> None:
        """Fails a job that is not run, and counts it."""
        self._counters.dropped[_DROPPED[reason]].add()
        self._counters.left_queue(time.perf_counter() - job.submitted)
        text = _TIMED_OUT if job.times_out and not job.gone else _DROPPED_TEXT[reason]
        job.failed(CallError(reason, text))

    def next_timeout(self) -> float | None:
        """Returns when the first job times out, by `time.monotonic`; None for never."""
        timed = (job for level in self._levels for job in level if job.times_out)
        return min((job.deadline for job in timed if job.deadline is not None), default=None)

    def drop_timed_out(self) -> None:
        """Drops the jobs that have waited for their timeout."""
        self._sweep(lambda job: job.times_out and job.expired)

    def _sweep(self, is_out: Callable[[Job], bool]) -> None:
        """Makes room: drops those jobs that are out."""
        for level in self._levels:
            if not any(map(is_out, level)):
                continue
            waiting = list(level)
            level.clear()
            for job in waiting:
                if is_out(job):
                    self.count -= 1
                    self.drop(job, _why(job))
                else:
                    level.append(job)


class JobQueue:
    """A line of jobs between the threads that put and those that take."""

    def __init__(self, policy: BatchPolicy, counters: ModelCounters) -> None:
        self._policy = policy
        self._waiting = WaitList(policy, counters)
        lock = threading.RLock()
        self._arrived = threading.Condition(lock)
        self._closed = False
        self._withdraw_job = self._withdraw
        # The thread that tells jobs of their timeouts, once one has any; and when it next looks.
        self._timer: threading.Thread | None = None
        self._timed = threading.Condition(lock)
        self._looks_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting.count

    @property
    def is_alive(self) -> bool:
        """Whether jobs are told of their timeouts, if any has one."""
        return self._timer is None or self._timer.is_alive()

    def check_room(self) -> None:
        """See `WaitList.check_room`."""
        with self._arrived:
            self._waiting.check_room()

    def put(self, job: Job) -> None:
        """Adds a job.

        Raises:
            CallError: QUEUE_FULL, or MODEL_NOT_FOUND after `close`.
        """
        with self._arrived:
            if self._closed:
                raise CallError(
                    Reason.MODEL_NOT_FOUND, "the version is not served any more", field="model"
                )
            self._waiting.put(job)
            job.withdraw = self._withdraw_job
            self._arrived.notify()
            if job.times_out:
                self._time(job)

    def _withdraw(self, job: Job) -> None:
        """Drops a job whose caller has gone, unless it has been taken."""
        with self._arrived:
            is_there = self._waiting.remove(job)
        if is_there:
            self._waiting.drop(job, _why(job))

    def close(self) -> None:
        """Takes no more jobs; those that wait can still be taken."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
            self._timed.notify_all()

    def take(self) -> list[Job]:
        """Waits for jobs, and returns those that run together next; none after `close`."""
        jobs: list[Job] | None = None
        while jobs is None:
            jobs = self._take_some()
        return jobs

    def _take_some(self) -> list[Job] | None:
        """Waits for jobs; None where all of them had to be dropped.

        A frame of its own, so that `take` holds none of those while it waits for others.
        """
        waiting = self._waiting
        with self._arrived:
            self._arrived.wait_for(lambda: waiting.count or self._closed)
            if not waiting.count:
                return []
            self._wait_for_more()
            jobs, dropped = waiting.gather()
        for job, reason in dropped:
            waiting.drop(job, reason)
        return jobs or None

    def _time(self, job: Job) -> None:
        """Has the job told of its timeout, should it still wait by then."""
        if self._timer is None:
            self._timer = threading.Thread(
                target=self._tell_of_timeouts, name="timeouts", daemon=True
            )
            self._timer.start()
        if self._looks_at is None or (job.deadline is not None and job.deadline < self._looks_at):
            self._timed.notify()

    def _tell_of_timeouts(self) -> None:
        with self._timed:
            while not self._closed:
                self._waiting.drop_timed_out()
                soonest = self._looks_at = self._waiting.next_timeout()
                self._timed.wait(None if soonest is None else soonest - time.monotonic())

    def _wait_for_more(self) -> None:
        """Waits until the oldest job has waited its delay, or a run is full."""
        delay = self._policy.delay
        if not delay or self._closed:
            return
        patience = self._waiting.oldest().submitted + delay - time.perf_counter()
        if patience > 0:
            self._arrived.wait_for(
                lambda: self._closed or self._waiting.rows() >= self._policy.max_rows, patience
            )


def _why(job: Job) -> Reason:
    # The caller of an expired job has mostly gone as well.
    return Reason.DEADLINE_EXCEEDED if job.expired else Reason.CANCELLED


_LOOK_AHEAD = 64
_DROPPED = {Reason.CANCELLED: "cancelled", Reason.DEADLINE_EXCEEDED: "expired"}
_DROPPED_TEXT = {
    Reason.CANCELLED: "the caller has gone",
    Reason.DEADLINE_EXCEEDED: "the deadline passed in the queue; the model was not run",
}
_TIMED_OUT = (
    "it waited in the queue for its timeout, the request's own or default_timeout_microseconds of "
    "the model's configuration; the model was not run"
)
