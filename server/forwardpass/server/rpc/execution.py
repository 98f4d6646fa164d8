"""Runs a model for a call, and turns what comes back into the call's answer."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, Protocol, TypeVar

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.scheduling.job import Answer, Job, earliest
from forwardpass.server.transport.call import Call
from forwardpass.v1 import inference_service_pb2, model_service_pb2
from forwardpass.wire import Array


class Response(Protocol):
    """A message that names the version and tells where the time went."""

    @property
    def model(self) -> model_service_pb2.ModelVersion:
        """The version that answered."""

    @property
    def timing(self) -> inference_service_pb2.Timing:
        """Where the time went."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """Returns the bytes."""


R = TypeVar("R", bound=Response)


class Execution:
    """The way of one call through one model.

    Made when the request has been parsed; what came before counts as decoding.

    Args:
        call: Who asks.
        loaded: The model, on the lease that `Repository.find` took; it ends with the call.
        timed: Whether the answer tells where the time went.
    """

    __slots__ = ("_call", "_decode_seconds", "_jobs", "_loaded", "_timed")

    def __init__(self, call: Call, loaded: Loaded, *, timed: bool = False) -> None:
        self._call = call
        self._loaded = loaded
        self._timed = timed
        self._decode_seconds = 0.0
        self._jobs: set[Job] = set()
        call.on_end(self._end)

    def check_room(self) -> None:
        """Refuses the call before inputs are read that would be read in vain.

        Raises:
            CallError: The model's queue is full.
        """
        self._loaded.executor.check_room()

    def run(
        self,
        inputs: Mapping[str, Array],
        rows: int,
        outputs: tuple[str, ...],
        then: Callable[[Answer], None],
        *,
        alone: bool = False,
        priority: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Has the model run, and calls `then` with what it gave, on the call's own thread.

        Args:
            inputs: An array for each input, as `Signature.check` passed them.
            rows: How many rows they have.
            outputs: The names of the outputs wanted.
            then: Takes the answer.
            alone: Whether the run may not be shared with other callers.
            priority: As `Job.priority`; None for that of the model's configuration.
            timeout: Seconds that it may wait for its turn; None for any number.
        """
        call = self._call
        now = time.perf_counter()
        self._decode_seconds = now - call.started
        deadline = earliest(call.deadline, timeout)
        if priority is None:
            priority = self._loaded.config.first_priority
        job = _Part(
            self._jobs,
            call,
            then,
            inputs,
            rows=rows,
            outputs=outputs,
            deadline=deadline,
            submitted=now,
            priority=priority,
            alone=alone,
        )
        self._loaded.executor.submit(job)

    def count(self, answer: Answer, encode_seconds: float) -> None:
        """Counts where the time of an answer went."""
        self._loaded.counters.answered([self._decode_seconds], answer.run.seconds, encode_seconds)

    def reply(
        self, answer: Answer, encode: Callable[[], Response], *, takes_long: bool = False
    ) -> None:
        """Ends the call with the message that `encode` makes, completed."""
        call = self._call

        def reply_later() -> None:
            message = self.complete(answer, encode).SerializeToString()
            call.resume(lambda: call.reply(message))

        if takes_long:
            call.offload(reply_later)
        else:
            call.reply(self.complete(answer, encode).SerializeToString())

    def complete(self, answer: Answer, encode: Callable[[], R]) -> R:
        """Returns the message that `encode` makes, with its model and its timing.

        Args:
            answer: What the model gave; its times are told where asked.
            encode: Makes the response, but for these.
        """
        started = time.perf_counter()
        response = encode()
        response.model.name, response.model.version = self._loaded.name, self._loaded.number
        encode_seconds = time.perf_counter() - started
        if self._timed:
            _tell(response.timing, answer, self._decode_seconds, encode_seconds)
        self.count(answer, encode_seconds)
        return response

    def _end(self, call: Call, code: int) -> None:
        jobs = tuple(self._jobs)
        self._jobs.clear()
        give_back(call, self._loaded, code, jobs)


class _Part(Job):
    """One run of an execution, whose answer goes to `then` on the call's own thread.

    It is among `jobs` as long as it is under way: a text takes thousands, one after another.
    """

    __slots__ = ("_call", "_inputs", "_jobs", "_then")

    def __init__(
        self,
        jobs: set[Job],
        call: Call,
        then: Callable[[Answer], None],
        inputs: Mapping[str, Array],
        *,
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
        submitted: float,
        priority: int,
        alone: bool,
    ) -> None:
        super().__init__(rows, outputs, deadline, submitted, priority, alone=alone)
        self._call = call
        self._then = then
        self._inputs = inputs
        self._jobs = jobs
        jobs.add(self)

    @property
    def inputs(self) -> Mapping[str, Array]:
        """See `Job.inputs`."""
        return self._inputs

    def answered(self, answer: Answer) -> None:
        """See `Job.answered`."""
        self._jobs.discard(self)
        self._call.resume(self._then, answer)

    def failed(self, error: Exception) -> None:
        """See `Job.failed`."""
        self._jobs.discard(self)
        self._call.resume(raise_, error)


def give_back(call: Call, loaded: Loaded, code: int, jobs: Iterable[Job]) -> None:
    """Ends a call's use of a model: it is counted, the lease given back, no job need run."""
    loaded.counters.ended(time.perf_counter() - call.started, code)
    loaded.leases.leave()
    if code:
        for job in jobs:
            job.abandon()


def raise_(error: Exception) -> NoReturn:
    """Raises, where a step is called for."""
    raise error


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
