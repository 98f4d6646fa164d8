"""ModelStreamInfer: many requests on one stream, answered in order.

A request that fails is answered with its error, and the stream goes on. Up to `IN_FLIGHT` requests
are worked on at a time; the next is read when one of them has been answered, so that a caller who
does not read, or sends faster than the models run, is held back.
"""

import time
from collections import deque

import structlog

from forwardpass.server.errors import CallError
from forwardpass.server.health import Readiness
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_inference.reference import reference
from forwardpass.server.rpc.open_inference.request import Sent, compare, receive
from forwardpass.server.rpc.open_inference.response import encode, stream_answer, stream_error
from forwardpass.server.runtime.loaded import Loaded
from forwardpass.server.runtime.repository import Repository
from forwardpass.server.scheduling.admission import RETRY_AFTER, Admission
from forwardpass.server.scheduling.job import Answer, Job, earliest
from forwardpass.server.transport.call import Call, Receiver
from forwardpass.wire import Failure, Reason

IN_FLIGHT = 8
_log = structlog.get_logger()


class Streaming:
    """Answers ModelStreamInfer.

    Args:
        repository: The models.
        reader: Makes arrays of strings, and knows what is refused.
        admission: Admits each request of a stream like a call.
        readiness: Tells when streams have to end.
    """

    def __init__(
        self,
        repository: Repository,
        reader: InputReader,
        admission: Admission,
        readiness: Readiness,
    ) -> None:
        self.repository = repository
        self.reader = reader
        self.admission = admission
        self.readiness = readiness

    def infer(self, call: Call, message: bytes) -> Receiver:  # noqa: ARG002  # a stream begins empty
        """Answers each ModelInferRequest of a stream."""
        return _Stream(self, call).receive


class _Slot:
    """The place of a request in the order of answers."""

    __slots__ = ("answer", "id", "job")

    def __init__(self) -> None:
        self.id = ""
        self.job: Job | None = None
        self.answer: bytes | None = None


class _Stream:
    """One stream. `receive` may run on a thread of its own; all else runs on the call's."""

    def __init__(self, server: Streaming, call: Call) -> None:
        self._server = server
        self._call = call
        self._slots: deque[_Slot] = deque()
        self._complete = False
        self._refused = False
        self._ended = False
        forget = server.readiness.watch(lambda: call.resume(self._flush))
        call.on_end(lambda _: forget())
        call.on_end(lambda _: self._abandon())
        # Had the server begun to drain before it was watched, nothing would tell.
        call.resume(self._flush)
        for _ in range(IN_FLIGHT):
            call.read()

    def receive(self, message: bytes | None) -> None:
        """Takes the next request, or None after the last."""
        if message is None:
            self._complete = True
        elif self._server.readiness.draining:
            # Not answered: the end of the stream tells the caller to send it elsewhere.
            self._refused = True
        else:
            slot = _Slot()
            self._slots.append(slot)
            try:
                self._start(slot, message)
            except Exception as error:  # noqa: BLE001  # whatever it is, the request is answered
                self._fail(slot, error)
            if self._ended and slot.job is not None:
                slot.job.abandon()
            return
        self._call.resume(self._flush)

    def _start(self, slot: _Slot, message: bytes) -> None:
        started = time.perf_counter()
        admission = self._server.admission
        admission.enter(len(message))
        try:
            sent = receive(message)
            slot.id = sent.head.id
            loaded = self._server.repository.find(
                reference(sent.head.model_name, sent.head.model_version)
            )
        except BaseException:
            admission.leave(len(message))
            raise
        try:
            self._submit(slot, sent, loaded, started)
        except BaseException:
            self._settle(loaded, len(message))
            loaded.counters.ended(time.perf_counter() - started, failed=True)
            raise

    def _submit(self, slot: _Slot, sent: Sent, loaded: Loaded, started: float) -> None:
        call = self._call
        terms, inputs = compare(sent, loaded, self._server.reader)
        decode_seconds = time.perf_counter() - started
        size = len(sent.message)

        def answered(answer: Answer) -> None:
            self._settle(loaded, size)

            def put() -> None:
                begun = time.perf_counter()
                slot.answer = stream_answer(encode(terms, slot.id, answer))
                seconds = time.perf_counter() - begun
                loaded.counters.answered(decode_seconds, answer.run.seconds, seconds)
                loaded.counters.ended(time.perf_counter() - started, failed=False)
                self._flush()

            call.resume(put)

        def failed(error: Exception) -> None:
            self._settle(loaded, size)
            loaded.counters.ended(time.perf_counter() - started, failed=True)
            self._fail(slot, error)

        deadline = earliest(call.deadline, terms.timeout)
        slot.job = Job(
            inputs, terms.rows, terms.outputs, deadline, answered, failed, terms.priority
        )
        loaded.worker.submit(slot.job)

    def _settle(self, loaded: Loaded, size: int) -> None:
        """Gives back what a request held; called once for each."""
        loaded.leases.leave()
        self._server.admission.leave(size)

    def _fail(self, slot: _Slot, error: Exception) -> None:
        def put() -> None:
            slot.answer = stream_error(self._told(error), slot.id)
            self._flush()

        self._call.resume(put)

    def _told(self, error: Exception) -> str:
        if isinstance(error, CallError):
            return error.failure.message
        request_id = self._call.request_id
        _log.error(
            "request_failed", method=self._call.method, request_id=request_id, exc_info=error
        )
        return f"internal error; the server's log has it under request id {request_id}"

    def _flush(self) -> None:
        """Sends the answers whose turn it is, asks for as many requests, and ends when due."""
        slots, call = self._slots, self._call
        draining = self._server.readiness.draining
        while slots and (answer := slots[0].answer) is not None:
            slots.popleft()
            call.send(answer)
            if not draining:
                call.read()
        if slots:
            return
        if self._complete and not self._refused:
            call.finish()
        elif draining:
            call.fail(
                Failure(
                    Reason.SHUTTING_DOWN,
                    "the server is shutting down; send what was not answered to another",
                    retry_after=RETRY_AFTER,
                )
            )

    def _abandon(self) -> None:
        self._ended = True
        for slot in list(self._slots):
            if slot.job is not None:
                slot.job.abandon()
