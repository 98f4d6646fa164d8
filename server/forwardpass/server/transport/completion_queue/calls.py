"""A call on the completion queue. Whatever changes it happens on the transport's one thread."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from forwardpass.server.errors import CallError
from forwardpass.server.transport.call import Call, CallType, OnEnd, Receiver, Route, Ts
from forwardpass.server.transport.completion_queue.core import (
    CLOSE,
    INITIAL_METADATA,
    STATUS_OK,
    Event,
    receive_close,
    receive_message,
    send_message,
    send_status,
)
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.wire import CODES, Failure, Reason

# Deadlines beyond this, in seconds since 1970, mean that there is none.
_NEVER = 1e10
_READ = object()


@dataclass(slots=True)
class Home:
    """What the calls of a transport share.

    Attributes:
        offloaded: Runs steps that compute for long.
        blocking: Runs handlers that wait.
        thread: The transport's thread.
        unwatched: Calls whose handler has returned without an answer, and whose caller's leaving
            nobody would notice.
    """

    offloaded: Executor
    blocking: Executor
    thread: int = 0
    unwatched: list["QueueCall"] = field(default_factory=list)


class QueueCall(Call):
    """A call, its messages in both directions, and its end.

    Methods called on another thread come back on the transport's.
    """

    __slots__ = (
        "_callbacks",
        "_code",
        "_core",
        "_has_begun",
        "_home",
        "_invocation_metadata",
        "_is_watched",
        "_is_writing",
        "_outbox",
        "_receiver",
        "_route",
        "_status",
        "_wanted",
    )

    def __init__(self, home: Home, method: str, route: Route, event: Event) -> None:
        until = event.call_details.deadline
        super().__init__(method, time.monotonic() + until - time.time() if until < _NEVER else None)
        self._home = home
        self._route = route
        self._core = event.call
        self._invocation_metadata = event.invocation_metadata
        self._code: int | None = None
        self._callbacks: list[OnEnd] = []
        self._is_watched = False
        self._has_begun = False
        self._is_writing = False
        # Made for the first message of several: calls with one answer never need it.
        self._outbox: deque[Any] | None = None
        self._status: Any = None
        self._wanted = 0
        self._receiver: Receiver | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        return {key: value for key, value in self._invocation_metadata if isinstance(value, str)}

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        peer: str = self._core.peer().decode()
        return peer

    def begin(self) -> None:
        """Has the handler called when the one message is there, or at once for a stream."""
        if self._route.kind is not CallType.BIDI_STREAM:
            self._core.start_server_batch((receive_message(),), self._on_message)
            return
        self.watch()
        self._outbox = deque()
        self.guard(self._open)

    def watch(self) -> None:
        """Has the call end when its caller goes."""
        if self._code is None and not self._is_watched:
            self._is_watched = True
            self._core.start_server_batch((receive_close(),), self._on_close)

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        if get_ident() != self._home.thread:
            self._post(lambda: self.reply(message))
            return
        if self._code is not None:
            return
        # First, so that who has the answer finds it counted.
        self._end(0)
        answer = send_message(message)
        self._core.start_server_batch(
            (INITIAL_METADATA, answer, STATUS_OK)
            if self._is_watched
            else (INITIAL_METADATA, answer, STATUS_OK, CLOSE),
            _done,
        )

    def send(self, message: bytes) -> None:
        """See `Call.send`."""
        self._put(message)

    def finish(self) -> None:
        """See `Call.finish`."""
        self._close(0, STATUS_OK)

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        status = send_status(failure.code, failure.message, trailing_metadata(failure))
        self._close(failure.code, status)

    def read(self) -> None:
        """See `Call.read`."""
        self._put(_READ)

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        if get_ident() != self._home.thread:
            self._post(lambda: self.resume(step, *args))
        elif self._outbox or self._is_writing:
            self._put(lambda: step(*args))
        elif self._code is None:
            try:
                step(*args)
            except CallError as error:
                self.fail(error.failure)
            except Exception:  # noqa: BLE001  # whatever it is, the caller gets an answer
                self.fault()

    def offload(self, step: Callable[[], None]) -> None:
        """See `Call.offload`."""
        self._home.offloaded.submit(self.guard, step)

    def on_end(self, callback: OnEnd) -> None:
        """See `Call.on_end`."""
        if get_ident() != self._home.thread:
            self._post(lambda: self.on_end(callback))
        elif self._code is None:
            self._callbacks.append(callback)
        else:
            callback(self, self._code)

    def _on_message(self, event: Event) -> None:
        """Hands the one message to the handler."""
        message = event.batch_operations[0].message()
        if message is None:
            # It has sent none, or it has gone before; of the latter an event tells, which comes
            # before that of a step that is posted now.
            self.watch()
            self._post(self._refuse_nothing)
        elif self._route.blocks:
            self._home.blocking.submit(self.guard, lambda: self._handle(message))
            self._home.unwatched.append(self)
        else:
            try:
                self._route.handle(self, message)
            except CallError as error:
                self.fail(error.failure)
            except Exception:  # noqa: BLE001  # whatever it is, the caller gets an answer
                self.fault()
            if self._code is None:
                self._home.unwatched.append(self)

    def _refuse_nothing(self) -> None:
        self.fail(
            Failure(
                Reason.INTERNAL, "the call ended without a message; a unary call sends exactly one"
            )
        )

    def _handle(self, message: bytes) -> None:
        self._route.handle(self, message)

    def _open(self) -> None:
        self._receiver = self._route.handle(self, b"")

    def _on_part(self, event: Event) -> None:
        """Hands a message of a stream to the receiver."""
        message = event.batch_operations[0].message()
        if message is None:
            # The caller has sent its last, or has gone; of the latter an event tells that may still
            # stand in the queue.
            self._post(lambda: self._deliver(None))
            return
        self._wanted -= 1
        self._deliver(message)
        if self._wanted and self._code is None:
            self._core.start_server_batch((receive_message(),), self._on_part)

    def _deliver(self, message: bytes | None) -> None:
        if self._code is None and self._receiver is not None:
            receiver = self._receiver
            self.guard(lambda: receiver(message))

    def _on_close(self, event: Event) -> None:
        """Ends the call if its caller has gone; else it has ended as it should."""
        if event.batch_operations[0].cancelled():
            if self._outbox:
                self._outbox.clear()
            expired = self.deadline is not None and time.monotonic() >= self.deadline
            self._end(CODES[Reason.DEADLINE_EXCEEDED if expired else Reason.CANCELLED])

    def _on_written(self, event: Event) -> None:
        self._is_writing = False
        if not event.success and self._outbox:
            self._outbox.clear()
        self._advance()

    def _put(self, item: Any) -> None:
        """Does an item of the outbox when those before it are done."""
        if get_ident() != self._home.thread:
            self._post(lambda: self._put(item))
        elif self._code is None:
            if self._outbox is None:
                self._outbox = deque()
            self._outbox.append(item)
            self._advance()

    def _close(self, code: int, status: Any) -> None:
        """Ends the call, and sends the status after what waits to be sent."""
        if get_ident() != self._home.thread:
            self._post(lambda: self._close(code, status))
        elif self._code is None:
            self._status = status
            self._end(code)
            self._advance()

    def _advance(self) -> None:
        """Does what waits in the outbox; core takes a message when the one before is written."""
        outbox = self._outbox
        while outbox and not self._is_writing:
            item = outbox.popleft()
            if item is _READ:
                self._wanted += 1
                if self._wanted == 1:
                    self._core.start_server_batch((receive_message(),), self._on_part)
            elif isinstance(item, bytes):
                self._is_writing = True
                self._start((send_message(item),), self._on_written)
            else:
                self.guard(item)
        if self._status is not None and not outbox and not self._is_writing:
            status, self._status = self._status, None
            self._start((status,) if self._is_watched else (status, CLOSE), _done)

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Event], None]) -> None:
        if not self._has_begun:
            self._has_begun = True
            operations = (INITIAL_METADATA, *operations)
        self._core.start_server_batch(operations, tag)

    def _end(self, code: int) -> None:
        if self._code is None:
            self._code = code
            for callback in self._callbacks:
                callback(self, code)
            # They may hold on to what holds on to the call.
            self._callbacks.clear()

    def _post(self, step: Callable[[], None]) -> None:
        """Has the step done on the transport's thread, from any other."""
        self._core.start_server_batch((), lambda _: self.guard(step))


def _done(event: Event) -> None:
    """Takes an event after which there is nothing to do."""
