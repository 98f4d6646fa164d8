"""Many requests on one stream, answered in order, and a request of it as a call of its own.

Up to `IN_FLIGHT` requests of a stream are held at a time. The next one is read when the answer to
one of them has been written, and there is room for it among those of all callers, so a caller that
sends faster than the models run, or that does not read, is held back.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from forwardpass.server.errors import CallError
from forwardpass.server.repository.readiness import Readiness
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version
from forwardpass.server.rpc.schema import STREAM_ERROR, STREAM_RESPONSE
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.server.transport.call import Call, Ts
from forwardpass.server.transport.stream_call import StreamCall, Window
from forwardpass.server.transport.task import Signal
from forwardpass.v1.inference_service_pb2 import Error
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Failure, Reason
from forwardpass.wire.fields import length_delimited

IN_FLIGHT = 8
Item = TypeVar("Item")
_OK = 0


class StreamedCall(Call):
    """One request of a stream, which its handler answers as if it were a call of its own.

    Attributes:
        answer: The message of the stream that answers it; None while it is open.
        hold: Told which model the request names.

    Args:
        stream: The stream.
        answered: Called when there is an answer.
        hold: See above.
    """

    __slots__ = ("_answered", "_stream", "answer", "hold")

    def __init__(
        self,
        stream: Call,
        answered: Callable[[], None],
        hold: Callable[[ModelReference], None],
    ) -> None:
        super().__init__(stream.method, stream.deadline)
        self.answer: bytes | None = None
        self.hold = hold
        self._stream = stream
        self._answered = answered

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        return self._stream.metadata

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        return self._stream.peer

    @property
    def account(self) -> Hashable:
        """See `Call.account`: the stream's."""
        return self._stream.account

    @property
    def has_ended(self) -> bool:
        """See `Call.has_ended`."""
        return self.code is not None or self._stream.has_ended

    @property
    def request_id(self) -> str:
        """See `Call.request_id`: the stream's."""
        return self._stream.request_id

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        if self._end(_OK):
            self.answer = self.wrap(message)
            self._answered()

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        if self._end(failure.code):
            self.answer = self.tell(failure)
            self._answered()

    def wrap(self, message: bytes) -> bytes:
        """Returns the message of the stream that holds an answer."""
        return length_delimited(STREAM_RESPONSE, message)

    def tell(self, failure: Failure) -> bytes:
        """Returns the message of the stream that tells what was wrong with the request."""
        error = Error(code=failure.code, reason=failure.reason, message=failure.message)
        return length_delimited(STREAM_ERROR, error.SerializeToString())

    def abandon(self, code: int) -> None:
        """Ends the request because its stream has ended."""
        self._end(code)

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        self._stream.resume(self._run, step, *args)

    def submit(self, step: Callable[[], None], *, waits: bool) -> None:
        """See `Call.submit`."""
        self._stream.submit(step, waits=waits)

    def _run(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        if self.code is None:
            self.guard(step, *args)


class Stream(ABC, Generic[Item]):
    """The requests of one stream.

    Args:
        call: The stream.
        readiness: Tells when the server drains.
        admission: Makes room for each request.
        repository: Has versions that are named.
    """

    def __init__(
        self,
        call: StreamCall,
        readiness: Readiness,
        admission: Admission,
        repository: Repository,
    ) -> None:
        self._call = call
        self._repository = repository
        # The version that was named last.
        self._held: Version | None = None
        self._readiness = readiness
        self._admission = admission
        self._window = Window(call, IN_FLIGHT, admission)
        # Those that have no answer yet, or one that others must precede, in order.
        self._begun: deque[StreamedCall] = deque()
        self._emptied = Signal(call)
        self._is_draining = False

    async def answer(self) -> None:
        """Answers every request, until the caller has sent its last or the server drains.

        Raises:
            CallError: SHUTTING_DOWN, after what had been begun.
        """
        self._call.on_end(self._abandon)
        forget = self._readiness.watch(lambda: self._call.resume(self._drain_if_asked))
        try:
            async for message in self._window:
                waiting = self._take(message)
                if waiting is not None:
                    await self._wait_answered()
                    self._begin(*waiting)
            await self._wait_answered()
        finally:
            forget()
        if self._is_draining:
            raise CallError(
                Reason.SHUTTING_DOWN,
                "the server is shutting down; send what is unanswered to another",
                retry_after=RETRY_AFTER,
            )

    @abstractmethod
    def parse(self, message: bytes) -> Item:
        """Returns the request in a message.

        Raises:
            CallError: There is none, or not one that may be answered.
        """

    @abstractmethod
    def begin(self, call: StreamedCall, message: bytes, request: Item) -> None:
        """Begins to answer the request in a message."""

    def must_be_alone(self, request: Item) -> bool:  # noqa: ARG002  # none, but for those with states
        """Whether a request must wait for the answers to those before it."""
        return False

    def new_call(self, message: bytes) -> StreamedCall:  # noqa: ARG002  # what it says is no matter
        """Returns the call that the request in a message is answered by."""
        return StreamedCall(self._call, self._flush, self.hold)

    def hold(self, reference: ModelReference) -> None:
        """Has a version that is named go on serving until another is, or the stream ends."""
        held = self._held
        if held is not None and (held.name, held.number) == (reference.name, reference.version):
            return
        version = None if self._call.has_ended else self._repository.hold(reference)
        if version is not None:
            self._held = version
            if held is not None:
                held.release()

    def _take(self, message: bytes) -> tuple[StreamedCall, bytes, Item] | None:
        """Begins to answer the request in a message; its answer follows those before it.

        Returns:
            The request, not begun, where it must wait for the answers to those before it.
        """
        call = self.new_call(message)
        call.size = len(message)
        try:
            request = self.parse(message)
        except CallError as error:
            with suppress(CallError):
                self._let_in(call)
            call.fail(error.failure)
            return None
        if self._begun and self.must_be_alone(request):
            return call, message, request
        self._begin(call, message, request)
        return None

    def _begin(self, call: StreamedCall, message: bytes, request: Item) -> None:
        try:
            self._let_in(call)
            self.begin(call, message, request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
            call.fail_with(error)

    def _let_in(self, call: StreamedCall) -> None:
        """Counts a request until its answer is written, or the stream ends.

        Raises:
            CallError: It is counted, but may not be answered.
        """
        self._begun.append(call)
        self._admission.enter_from_stream(call, call.size)

    def _flush(self) -> None:
        """Writes the answers that are next in order."""
        begun, stream, release = self._begun, self._call, self._window.release
        leave = self._admission.leave_from_stream
        while begun and (answer := begun[0].answer) is not None:
            call = begun.popleft()
            leave(call, call.size)
            stream.write(answer, release)
        if not begun:
            self._emptied.set_here()

    async def _wait_answered(self) -> None:
        while self._begun:
            await self._emptied.wait()

    def _abandon(self, _: Call, code: int) -> None:
        """Ends what is unanswered when the stream has ended."""
        if self._held is not None:
            self._held.release()
            self._held = None
        # They hold the stream, which must not hold them.
        begun, self._begun = self._begun, deque()
        for call in begun:
            call.abandon(code)
            self._admission.leave_from_stream(call, call.size)

    def _drain_if_asked(self) -> None:
        # A stream whose caller has sent its last ends as it would without.
        if self._readiness.draining and not self._call.is_half_closed:
            self._is_draining = True
            self._call.stop_reading()
