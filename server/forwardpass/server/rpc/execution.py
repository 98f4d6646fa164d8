"""One call's use of one model: the lease, the runs, and what is counted of them."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Protocol, Self, TypeVar

from forwardpass.server.errors import CallError
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.repository.repository import Repository
from forwardpass.server.rpc.stream import StreamedCall
from forwardpass.server.scheduling.job import Answer, Job
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.task import CallEnded, Future
from forwardpass.v1 import inference_service_pb2, model_service_pb2
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import CODES, Array, Reason

_OK = 0


class Response(Protocol):
    """A message that names the version and tells where the time went."""

    @property
    def model(self) -> model_service_pb2.ModelVersion:
        """The version that answered."""

    @property
    def timing(self) -> inference_service_pb2.Timing:
        """Where the time went."""


R = TypeVar("R", bound=Response)


class Execution:
    """The runs of one model for one call.

    A context manager: inside it the call has a lease on the model, which `__exit__` gives back and
    counts, whatever ended the call. Made when the request has been parsed; what came before the
    first run counts as decoding.

    Attributes:
        loaded: The model.
        epoch: The repository's, from before the model was looked up.

    Args:
        call: Who asks.
        repository: The models.
        reference: Which is meant.
        timed: Whether the answer tells where the time went.

    Raises:
        CallError: No such model or version, or one that does not answer, and why.
    """

    __slots__ = ("_call", "_decode_seconds", "_jobs", "_timed", "epoch", "loaded")

    def __init__(
        self,
        call: Call,
        repository: Repository,
        reference: ModelReference,
        *,
        timed: bool = False,
    ) -> None:
        self.epoch = repository.epoch
        self.loaded: Loaded = repository.find(reference)
        if isinstance(call, StreamedCall):
            call.hold(reference)
        self._call = call
        self._timed = timed
        self._decode_seconds: float | None = None
        self._jobs: set[Job] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the lease back; no job need run any more."""
        give_back(self._call, self.loaded, _code(error), tuple(self._jobs))

    def check_room(self) -> None:
        """Refuses the call before inputs are read that would be read in vain.

        Raises:
            CallError: The model's queue is full.
        """
        self.loaded.executor.check_room()

    def run(
        self,
        inputs: Mapping[str, Array],
        rows: int,
        outputs: tuple[str, ...],
        *,
        alone: bool = False,
        priority: int | None = None,
        timeout: float | None = None,
    ) -> Future[Answer]:
        """Has the model run; awaiting the future gives the answer.

        Args:
            inputs: An array for each input, as `Signature.check` passed them.
            rows: How many rows they have.
            outputs: The names of the outputs wanted.
            alone: Whether the run may not be shared with other callers.
            priority: As `Job.priority`; None for that of the model's configuration.
            timeout: Seconds that it may wait for its turn; None for as many as the model's
                configuration says.

        Raises:
            CallError: The model's queue is full.
        """
        call = self._call
        now = time.perf_counter()
        if self._decode_seconds is None:
            self._decode_seconds = now - call.started
        answer: Future[Answer] = Future(call)
        job = _AwaitedJob(
            self._jobs,
            answer,
            inputs,
            rows=rows,
            outputs=outputs,
            deadline=call.deadline,
            timeout=self.loaded.config.timeout(None) if timeout is None else timeout,
            submitted=now,
            priority=self.loaded.config.first_priority if priority is None else priority,
            alone=alone,
        )
        self.loaded.executor.submit(job)
        return answer

    def count(self, answer: Answer, encode_seconds: float) -> None:
        """Counts where the time of an answer went."""
        self.loaded.counters.answered(
            [self._decode_seconds or 0.0], answer.run.seconds, encode_seconds
        )

    def complete(self, answer: Answer, encode: Callable[[], R]) -> R:
        """Returns the message that `encode` makes, with its model and its timing.

        Args:
            answer: What the model gave; its times are told where asked.
            encode: Makes the response, but for these.
        """
        started = time.perf_counter()
        response = encode()
        response.model.name, response.model.version = self.loaded.name, self.loaded.number
        encode_seconds = time.perf_counter() - started
        if self._timed:
            _tell(response.timing, answer, self._decode_seconds or 0.0, encode_seconds)
        self.count(answer, encode_seconds)
        return response


class _AwaitedJob(Job):
    """One run of an execution, whose answer its handler awaits.

    It is among `jobs` as long as it is under way: a text takes thousands, one after another.
    """

    __slots__ = ("_answer", "_inputs", "_jobs")

    def __init__(
        self,
        jobs: set[Job],
        answer: Future[Answer],
        inputs: Mapping[str, Array],
        *,
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        timeout: float | None,
        submitted: float,
        priority: int,
        alone: bool,
    ) -> None:
        super().__init__(rows, outputs, deadline, submitted, priority, timeout=timeout, alone=alone)
        # None once it is settled: the traceback of an error holds the run's jobs, and a job that
        # held the error would be a cycle with it.
        self._answer: Future[Answer] | None = answer
        self._inputs = inputs
        self._jobs = jobs
        jobs.add(self)

    @property
    def inputs(self) -> Mapping[str, Array]:
        """See `Job.inputs`."""
        return self._inputs

    def answered(self, answer: Answer) -> None:
        """See `Job.answered`."""
        self._take_answer().set(answer)

    def failed(self, error: Exception) -> None:
        """See `Job.failed`."""
        self._take_answer().fail(error)

    def _take_answer(self) -> Future[Answer]:
        self._jobs.discard(self)
        answer, self._answer = self._answer, None
        assert answer is not None
        return answer


def give_back(call: Call, loaded: Loaded, code: int, jobs: Iterable[Job]) -> None:
    """Ends a call's use of a model: it is counted, the lease given back, no job need run."""
    loaded.counters.ended(time.perf_counter() - call.started, code)
    loaded.leases.leave()
    if code:
        for job in jobs:
            job.abandon()


def _code(error: BaseException | None) -> int:
    """Returns the status code that a call ends with."""
    if error is None:
        return _OK
    if isinstance(error, CallEnded):
        return error.code
    return CODES[error.failure.reason if isinstance(error, CallError) else Reason.INTERNAL]


def _tell(
    timing: inference_service_pb2.Timing,
    answer: Answer,
    decode_seconds: float,
    encode_seconds: float,
) -> None:
    timing.queue.FromNanoseconds(round(answer.queue_seconds * 1e9))
    timing.decode.FromNanoseconds(round(decode_seconds * 1e9))
    timing.compute.FromNanoseconds(round(answer.run.seconds * 1e9))
    timing.encode.FromNanoseconds(round(encode_seconds * 1e9))
    timing.batch_rows = answer.run.rows
