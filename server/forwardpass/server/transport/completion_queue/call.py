"""A call on the completion queue. Whatever changes it happens on the transport's one thread."""

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any, TypeAlias

from forwardpass.server.transport.call import NO_MESSAGE, Ts, text_metadata
from forwardpass.server.transport.completion_queue.core import (
    CLOSE,
    INITIAL_METADATA,
    NO_FLAGS,
    STATUS_OK,
    Event,
    receive_close,
    receive_message,
    send_message,
    send_status,
)
from forwardpass.server.transport.route import CallType, Route
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.server.transport.transit import LONG_BYTES, MOST_UNREAD, SMALL_BYTES, Transit
from forwardpass.wire import CODES, Failure, Reason

# Deadlines beyond this, in seconds since 1970, mean that there is none.
_NEVER = 1e10
_OK = 0
_Step: TypeAlias = Callable[[], None]
# A message to send, with what to do once it is written, or a step to run once those before it are.
_Item: TypeAlias = tuple[bytes, _Step | None] | _Step


@dataclass(slots=True)
class CallContext:
    """What the calls of a transport share.

    Attributes:
        computing: Runs steps that compute for long.
        waiting: Runs steps that wait.
        asking: Asks core for messages that may be there already.
        transit: What is on its way.
        thread: The transport's thread.
        posted: What is done when all that is there has been taken in, such as other threads' steps.
        long: Long messages, which are taken in after those.
        unwatched: Calls whose handler waits, and whose caller's leaving nobody would notice.
    """

    computing: Executor
    waiting: Executor
    asking: Executor
    transit: Transit
    thread: int = 0
    posted: deque[Callable[[], None]] = field(default_factory=deque)
    long: deque[Callable[[], None]] = field(default_factory=deque)
    unwatched: list["QueueCall"] = field(default_factory=list)


class QueueCall(StreamCall):
    """A call whose operations go to gRPC core one after the other, as core demands.

    Attributes:
        unsent: Bytes that wait to be taken.
    """

    __slots__ = (
        "_context",
        "_core",
        "_has_begun",
        "_invocation_metadata",
        "_is_watched",
        "_outbox",
        "_route",
        "_sending",
        "_status",
        "_writing",
        "_written",
        "unsent",
    )

    def __init__(self, context: CallContext, method: str, route: Route, event: Event) -> None:
        until = event.call_details.deadline
        super().__init__(method, time.monotonic() + until - time.time() if until < _NEVER else None)
        self._context = context
        self._route = route
        self._core = event.call
        self._invocation_metadata = event.invocation_metadata
        self._is_watched = False
        self._has_begun = False
        # Bytes of what is being written of a stream; 0 while nothing is.
        self._writing = 0
        # What to do once that is written.
        self._written: _Step | None = None
        # Made for the first that has to wait: calls with one answer never need it.
        self._outbox: deque[_Item] | None = None
        self._sending: _Sending | None = None
        self.unsent = 0
        self._status: Any = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        return text_metadata(self._invocation_metadata)

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        peer: str = self._core.peer().decode()
        return peer

    def begin(self) -> None:
        """Begins to answer when the one message is there, or at once where the caller streams."""
        route = self._route
        if route.check is not None:
            self.guard(route.check, self)
            if self.code is not None:
                return
        if route.call_type is not CallType.BIDI_STREAM:
            # As `read`, of which a call would cost as much again.
            transit = self._context.transit
            if len(transit.arriving) < transit.places:
                transit.arriving[self] = self.started
                self._core.start_server_batch((receive_message(),), self._on_message)
            else:
                transit.wait(self)
            return
        self.watch()
        self._enter(b"")

    def watch(self) -> None:
        """Has the call end when its caller leaves."""
        if self.code is None and not self._is_watched:
            self._is_watched = True
            self._core.start_server_batch((receive_close(),), self._on_close)

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        # First, so that who has the answer finds it counted.
        if self._end(_OK):
            answer = send_message(message, NO_FLAGS)
            transit = self._context.transit
            if len(message) < SMALL_BYTES and transit.unread < MOST_UNREAD:
                transit.unread += 1
                tag = transit.on_read
            else:
                self.unsent = len(message)
                transit.leaving[self] = time.perf_counter()
                tag = self._on_replied
            self._core.start_server_batch(
                (INITIAL_METADATA, answer, STATUS_OK)
                if self._is_watched
                else (INITIAL_METADATA, answer, STATUS_OK, CLOSE),
                tag,
            )

    def write(self, message: bytes, written: Callable[[], None] | None = None) -> None:
        """See `StreamCall.write`."""
        if self.code is not None:
            return
        self.unsent += len(message) or 1
        if not self._writing and not self._outbox:
            self._send(message, written)
            return
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append((message, written))
        if self._sending is None:
            self._look_after_unsent()
        elif self._context.transit.slow:
            self._context.transit.grow(self._sending, len(message))

    def finish(self) -> None:
        """See `StreamCall.finish`."""
        self._close(_OK, STATUS_OK)

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        status = send_status(failure.code, failure.message, trailing_metadata(failure))
        self._close(failure.code, status)

    def read(self) -> None:
        """See `StreamCall.read`."""
        transit = self._context.transit
        if len(transit.arriving) < transit.places:
            transit.arriving[self] = time.perf_counter()
            self._core.start_server_batch((receive_message(),), self._on_part)
        else:
            transit.wait(self)

    def ask(self) -> None:
        """See `Arrival.ask`."""
        streams = self._route.call_type is CallType.BIDI_STREAM
        taken = self._on_part if streams else self._on_message
        self._core.start_server_batch((receive_message(),), taken)

    def ask_apart(self) -> None:
        """See `Arrival.ask_apart`: it is core that unpacks it, on the thread that asks."""
        self._context.transit.begin_asking(self)
        self._context.asking.submit(self._ask_on_thread)

    def _ask_on_thread(self) -> None:
        self.ask()
        # It was not there where this comes before it.
        self.post(partial(self._context.transit.end_asking, self))

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        if get_ident() != self._context.thread:
            self.post(partial(self.resume, step, *args))
        elif self._outbox or self._writing:
            self._put(partial(self._run, step, *args))
        else:
            self._run(step, *args)

    def submit(self, step: Callable[[], None], *, waits: bool) -> None:
        """See `Call.submit`."""
        (self._context.waiting if waits else self._context.computing).submit(step)

    def evict(self, why: Failure) -> None:
        """Ends the call, as there is no room for its message."""
        if self.code is None and not self._writing:
            self.fail(why)
        else:
            self.cut(why)

    def cut(self, why: Failure) -> None:
        """See `StreamCall.cut`."""
        if get_ident() != self._context.thread:
            self.post(partial(self._run, self.cut, why))
            return
        if self._outbox:
            self._outbox.clear()
        self._status = None
        self._end(why.code)
        self._core.cancel(why.code, why.message)

    def _run(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        if self.code is None:
            try:
                step(*args)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
                self.fail_with(error)

    def _enter(self, message: bytes) -> None:
        """Begins to answer."""
        try:
            self._route.begin(self, message)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
            self.fail_with(error)

    def _on_message(self, event: Event, *, is_its_turn: bool = False) -> None:
        """Takes the one message."""
        message = event.batch_operations[0].message()
        if message is not None and len(message) > LONG_BYTES and not is_its_turn:
            self._defer(partial(self._on_message, event, is_its_turn=True))
            return
        self._context.transit.received(self)
        if self.code is not None:
            return
        if message is None:
            # It has sent none, or it has gone before; of the latter an event tells, which comes
            # before that of a step that is posted now.
            self.watch()
            self.post(partial(self._run, self.fail, NO_MESSAGE))
            return
        self._enter(message)
        if self.code is None:
            self._context.unwatched.append(self)

    def _defer(self, take: Callable[[], None]) -> None:
        """Has a long message taken in when its turn comes."""
        transit = self._context.transit
        transit.was_long(self)
        transit.came(self)
        self._context.long.append(take)

    def _on_part(self, event: Event, *, is_its_turn: bool = False) -> None:
        """Takes a message of a stream."""
        message = event.batch_operations[0].message()
        if message is not None and len(message) > LONG_BYTES and not is_its_turn:
            self._defer(partial(self._on_part, event, is_its_turn=True))
            return
        self._context.transit.received(self)
        if message is None:
            # The caller has sent its last, or has gone; of the latter an event tells that may still
            # stand in the queue.
            self.post(partial(self._run, self.deliver, None))
        elif self.code is None:
            self.deliver(message)

    def _on_close(self, event: Event) -> None:
        """Ends the call if its caller has gone; else it has ended as it should."""
        if event.batch_operations[0].cancelled():
            if self._outbox:
                self._outbox.clear()
            expired = self.deadline is not None and time.monotonic() >= self.deadline
            self._end(CODES[Reason.DEADLINE_EXCEEDED if expired else Reason.CANCELLED])

    def _on_replied(self, _: Event) -> None:
        self._context.transit.sent(self)

    def _on_written(self, event: Event) -> None:
        self.unsent -= self._writing
        self._writing = 0
        written, self._written = self._written, None
        sending = self._sending
        if sending is not None:
            # It holds the call, which must not hold it for longer.
            self._sending = None
            self._context.transit.sent(sending)
        if not event.success:
            if self._outbox:
                self._outbox.clear()
        elif written is not None:
            written()
        if self._outbox or self._status is not None:
            self._advance()

    def _put(self, item: _Item) -> None:
        """Does an item of the outbox when those before it are done."""
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(item)
        self._advance()

    def _close(self, code: int, status: Any) -> None:
        """Ends the call, and sends the status after what waits to be sent."""
        if self._end(code):
            self._status = status
            self._advance()

    def _advance(self) -> None:
        """Does what waits in the outbox; core takes a message when the one before is written."""
        outbox = self._outbox
        while outbox and not self._writing:
            item = outbox.popleft()
            if isinstance(item, tuple):
                self._send(*item)
            else:
                item()
        if self._status is not None and not outbox and not self._writing:
            status, self._status = self._status, None
            self._start((status,) if self._is_watched else (status, CLOSE), _done)

    def _send(self, message: bytes, written: _Step | None) -> None:
        # A message without bytes is one, too.
        self._writing = len(message) or 1
        self._written = written
        self._look_after_unsent()
        self._start((send_message(message, NO_FLAGS),), self._on_written)

    def _look_after_unsent(self) -> None:
        """Has what waits to be taken looked after, unless it is small."""
        if self.unsent >= SMALL_BYTES:
            self._sending = _Sending(self)
            self._context.transit.leaving[self._sending] = time.perf_counter()

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Event], None]) -> None:
        if not self._has_begun:
            self._has_begun = True
            operations = (INITIAL_METADATA, *operations)
        self._core.start_server_batch(operations, tag)

    def post(self, step: Callable[[], None]) -> None:
        """Has the step done on the transport's thread, from any thread."""
        posted = self._context.posted
        self._core.start_server_batch((), lambda _: posted.append(step))


class _Sending:
    """What a stream has to send, which is on its way beside what it is sent."""

    __slots__ = ("_call",)

    def __init__(self, call: QueueCall) -> None:
        self._call = call

    @property
    def unsent(self) -> int:
        """See `Transfer.unsent`: with those that wait behind it."""
        return self._call.unsent

    @property
    def account(self) -> Hashable:
        """See `Transfer.account`."""
        return self._call.account

    def evict(self, why: Failure) -> None:
        """See `Transfer.evict`."""
        self._call.cut(why)

    def post(self, step: Callable[[], None]) -> None:
        """See `QueueCall.post`."""
        self._call.post(step)


def _done(event: Event) -> None:
    """Takes an event after which there is nothing to do."""
