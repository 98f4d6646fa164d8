"""Runs a cheap model on the transport's own thread, which costs no hand-over."""

from collections.abc import Callable, Mapping, Sequence

import structlog

from forwardpass.server.metrics.counters import ModelCounters
from forwardpass.server.scheduling.batch import run_batch
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.job import Job
from forwardpass.server.scheduling.queue import BatchPolicy, WaitList
from forwardpass.server.scheduling.watchdog import Watchdog
from forwardpass.server.transport.tick import Tick
from forwardpass.wire import Array

# What a run may take on the transport's thread: at least this long, in seconds, and this many times
# what was measured.
_LEAST_SECONDS, _TIMES = 0.05, 20.0
_log = structlog.get_logger()


class Overrun(BaseException):
    """A run was stopped as it held up the transport. No failure of its jobs: they run elsewhere."""


class InlineExecutor:
    """Runs the jobs that arrive in a tick of the transport together, at the tick's end.

    A job of more rows than the transport may be held up for goes to an executor with a thread.
    After a run that takes far longer than was measured, all jobs go there, its own included.

    Args:
        name: What the model is called in the log.
        tick: The transport's.
        watchdog: Ends runs that take too long.
        run: Runs the model: the outputs named, of the inputs.
        stop: Ends that run from another thread, between two operators, and any that follows.
        seconds: How long a run of the most rows took when it was measured.
        policy: How jobs are gathered into one run; its rows are the most that run here.
        counters: What is counted.
        executor: Takes the larger jobs.
        moved: Called once, when all jobs go to that from then on.
    """

    def __init__(  # noqa: PLR0917  # each is one thing
        self,
        name: str,
        tick: Tick,
        watchdog: Watchdog,
        run: Callable[[Sequence[str], Mapping[str, Array]], list[Array]],
        stop: Callable[[], None],
        seconds: float,
        policy: BatchPolicy,
        counters: ModelCounters,
        executor: ThreadExecutor,
        moved: Callable[[], None],
    ) -> None:
        self._name = name
        self._tick = tick
        self._watchdog = watchdog
        self._run = run
        self._stop = stop
        self._seconds = max(_LEAST_SECONDS, _TIMES * seconds)
        self._most_rows = policy.max_rows
        self._waiting = WaitList(policy, counters)
        self._deferred = False
        self._counters = counters
        self._executor = executor
        self._moved = moved
        self.failure_detector = executor.failure_detector

    @property
    def is_inline(self) -> bool:
        """Whether runs are still made on the transport's thread."""
        return self._most_rows > 0

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread for the jobs that do not run here."""
        return self._executor.is_alive

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting.count + self._executor.waiting

    def check_room(self) -> None:
        """Refuses a request before its inputs are read, where its job would be refused.

        Raises:
            CallError: The queue is full.
        """
        if self.is_inline:
            self._waiting.check_room()
        else:
            self._executor.check_room()

    def submit(self, job: Job) -> None:
        """Puts a job in the queue; on the transport's thread.

        Raises:
            CallError: The queue is full, or closed.
        """
        if job.rows > self._most_rows:
            self._executor.submit(job)
            return
        self._waiting.put(job)
        if not self._deferred:
            self._defer()

    def close(self) -> None:
        """Ends the thread, when no call has a lease any more: so there is no job here."""
        self._executor.close()

    def _defer(self) -> None:
        self._deferred = True
        self._tick.defer(self._work)

    def _work(self) -> None:
        """Makes one run; what is left waits for the tick after the events that are ready now."""
        self._deferred = False
        jobs, dropped = self._waiting.gather()
        for job, reason in dropped:
            self._waiting.drop(job, reason)
        if self._waiting.count:
            self._defer()
        if jobs and not (self._most_rows and self._run_here(jobs)):
            self._move(jobs)

    def _run_here(self, jobs: Sequence[Job]) -> bool:
        """Runs jobs together; False where that took too long, and they have no answer."""
        detector = self.failure_detector
        try:
            run_batch(self._run_watched, jobs, self._counters, detector, on_transport=True)
        except Overrun:
            return False
        return True

    def _run_watched(
        self,
        outputs: Sequence[str],
        inputs: Mapping[str, Array],
        on_begin: Callable[[Callable[[], None]], None] | None,  # noqa: ARG002  # nobody can leave here
    ) -> list[Array]:
        self._watchdog.begin(self._stop, self._seconds)
        try:
            return self._run(outputs, inputs)
        finally:
            if self._watchdog.end():
                raise Overrun

    def _move(self, jobs: Sequence[Job]) -> None:
        """Has everything run elsewhere from now on."""
        if self.is_inline:
            self._most_rows = 0
            _log.warning(
                "moved_off_the_transport",
                model=self._name,
                reason=f"a run took more than {self._seconds:.3g} s",
            )
            self._moved()
        for job in jobs:
            try:
                self._executor.submit(job)
            except Exception as error:  # noqa: BLE001  # handed to the job's own call
                job.failed(error)
