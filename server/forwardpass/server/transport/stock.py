"""The transport on grpcio's public API: a thread for each call. It is the reference."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, ParamSpec, TypeVar

import grpc
import structlog

from forwardpass.server.transport.call import NO_MESSAGE, Ts, text_metadata
from forwardpass.server.transport.credentials import credential_arguments
from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import (
    HANG_SECONDS,
    UNKNOWN,
    CallType,
    Route,
    Routes,
    Transport,
)
from forwardpass.server.transport.shared_transit import SharedTransit, StockArrival, StockTransfer
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.server.transport.transit import Transit
from forwardpass.wire import CODES, Failure, Reason

_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# Threads beyond those that one connection can hold: they answer health checks and refusals.
_SPARE_THREADS = 32
# Streams that wait for their thread to run. Where there are more, the thread that takes calls in
# waits with all of them for its turns of the interpreter, a dozen for each call.
_BEGINNING = 128
_OK = 0
_log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")
_Step = Callable[[], None]


class StockTransport(Transport):
    """grpc.server with handlers that take and give bytes.

    Args:
        listener: Where to listen, and the limits.
        routes: What answers each method.
        transit: What is on its way.
        unknown: What answers all other methods.
    """

    def __init__(
        self, listener: Listener, routes: Routes, transit: Transit, unknown: Route = UNKNOWN
    ) -> None:
        self._listener = listener
        self._transit = SharedTransit(transit)
        # A call takes a thread before it is let in, and holds it if its message never comes.
        threads = listener.max_open + listener.calls_of_connection + _SPARE_THREADS
        self._threads = ThreadPoolExecutor(threads, "call")
        # A step that a thread of theirs has to take, and since when.
        self._asked: tuple[Future[None], float] | None = None
        self._server = grpc.server(
            self._threads,
            handlers=[_Handlers(routes, unknown, self._transit, threads)],
            options=listener.channel_arguments(),
        )

    def start(self) -> int:
        """See `Transport.start`."""
        port = self._listener.bind(self._add_port)
        self._server.start()
        return port

    def is_alive(self) -> bool:
        """See `Transport.is_alive`: not while no thread has been free for too long.

        That is told by two questions: the first begins to wait for one, and who asks later is told.
        """
        if not self._transit.is_alive:
            return False
        now, asked = time.monotonic(), self._asked
        if asked is None or asked[0].done():
            self._asked = self._threads.submit(_nothing), now
            return True
        return now - asked[1] < HANG_SECONDS

    def cpu_seconds(self) -> float | None:
        """See `Transport.cpu_seconds`."""
        return None

    def stop(self, grace: float) -> None:
        """See `Transport.stop`."""
        self._server.stop(grace).wait()
        self._transit.close()

    def _add_port(self, address: str) -> int:
        certificates = self._listener.certificates
        if certificates is None:
            return self._server.add_insecure_port(address)
        first, fetch, is_required = credential_arguments(certificates)
        credentials = grpc.dynamic_ssl_server_credentials(
            first,
            fetch,  # type: ignore[arg-type]  # its stubs know nothing of None
            require_client_authentication=is_required,
        )
        return self._server.add_secure_port(address, credentials)


def _nothing() -> None:
    """Takes a thread for a moment."""


class _Here(ThreadPoolExecutor):
    """Runs what it is given on the thread that gives it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `ThreadPoolExecutor.submit`."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass(frozen=True, slots=True)
class _Handler:
    """What answers a method.

    Attributes:
        answer: Answers a call, on a thread of its own.
        refuse: Turns one away, on the thread that takes calls in.
        streams: Whether its calls may stay open.
    """

    answer: "grpc.RpcMethodHandler[bytes, bytes]"
    refuse: "grpc.RpcMethodHandler[bytes, bytes]"
    streams: bool


class _Handlers(grpc.GenericRpcHandler):
    """Finds what answers a call, or turns it away where there is no thread for it.

    Those beyond would wait for one, and 20,000 of them take the memory of a pod. grpcio has a bound
    of its own, which looks at nothing but the number of calls.

    Args:
        routes: What answers each method.
        unknown: What answers all other methods.
        transit: What is on its way.
        threads: How many calls have a thread.
    """

    def __init__(
        self, routes: Routes, unknown: Route, transit: SharedTransit, threads: int
    ) -> None:
        self._unknown = unknown
        self._transit = transit
        self._places = threading.Semaphore(threads)
        self._beginning = threading.Semaphore(_BEGINNING)
        self._here = _Here(1)
        self._handlers = {method: self._handler(method, route) for method, route in routes.items()}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Returns what answers a call; on the one thread that takes calls in."""
        method = handler_call_details.method
        handler = self._handlers.get(method) or self._handler(method, self._unknown)
        if handler.streams and not self._beginning.acquire(blocking=False):
            return handler.refuse
        if not self._places.acquire(blocking=False):
            if handler.streams:
                self._beginning.release()
            return handler.refuse
        return handler.answer

    def _handler(self, method: str, route: Route) -> _Handler:
        """Returns what answers a method.

        To grpcio all of them stream. It then takes in no message before it is asked for one, which
        is what a message is counted from; callers see no difference.
        """
        streams = route.call_type is not CallType.UNARY

        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if streams:
                self._beginning.release()
            try:
                yield from StockCall(method, context, messages, self._transit).answers(route)
            finally:
                self._places.release()

        def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            _fail(context, route.turn_away())

        # So does grpcio's own health service say where it is to be called.
        refuse.experimental_thread_pool = self._here  # type: ignore[attr-defined]
        stream = grpc.stream_stream_rpc_method_handler
        return _Handler(stream(answer), stream(refuse), streams)


def _fail(context: grpc.ServicerContext, failure: Failure) -> NoReturn:
    context.set_trailing_metadata(trailing_metadata(failure))
    context.abort(_STATUS_CODES[failure.code], failure.message)


class StockCall(StreamCall):
    """A call with a thread of its own, which runs in `answers`.

    Args:
        method: The path.
        context: gRPC's view of the call.
        messages: The caller's messages, each taken in when it is asked for.
        transit: What is on its way.
    """

    __slots__ = (
        "_context",
        "_failure",
        "_messages",
        "_outgoing",
        "_reader",
        "_seems_over",
        "_steps",
        "_transit",
    )

    def __init__(
        self,
        method: str,
        context: grpc.ServicerContext,
        messages: Iterator[bytes],
        transit: SharedTransit,
    ) -> None:
        remaining = context.time_remaining()
        # By the clock of the day, which may have been set since the call came: gRPC core, which
        # goes by another, ends those that are over.
        self._seems_over = remaining == 0
        super().__init__(
            method,
            # grpcio gives a call without a deadline a remaining time of centuries, or None.
            None if remaining is None or not 0 < remaining < 1e9 else time.monotonic() + remaining,
        )
        self._context = context
        self._messages = messages
        self._transit = transit
        # None once the call has ended: what is still resumed then holds on to nothing.
        self._steps: queue.SimpleQueue[_Step] | None = queue.SimpleQueue()
        self._outgoing: deque[bytes] = deque()
        self._failure: Failure | None = None
        self._reader: _Reader | None = None
        if not context.add_callback(lambda: self.resume(self._leave)):
            self.resume(self._leave)

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        return text_metadata(self._context.invocation_metadata())

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        peer: str = self._context.peer()
        return peer

    @property
    def has_ended(self) -> bool:
        """See `Call.has_ended`: the call's own thread may be busy, and not know yet."""
        return self.code is not None or not self._context.is_active()

    def reply(self, message: bytes) -> None:
        """See `Call.reply`."""
        if self._end(_OK):
            self._outgoing.append(message)

    def write(self, message: bytes, written: Callable[[], None] | None = None) -> None:
        """See `StreamCall.write`."""
        if self.code is None:
            self._outgoing.append(message)
            if written is not None:
                self.resume(written)

    def finish(self) -> None:
        """See `StreamCall.finish`."""
        self._end(_OK)

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        if self._end(failure.code):
            self._failure = failure

    def read(self) -> None:
        """See `StreamCall.read`."""
        if self._reader is not None:
            self._reader.permit()

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        steps = self._steps
        if steps is not None:
            steps.put(partial(step, *args))

    def submit(self, step: Callable[[], None], *, waits: bool) -> None:  # noqa: ARG002  # either way the thread is the call's own
        """See `Call.submit`."""
        step()

    def receive(self) -> bytes | None:
        """Waits for the caller's next message; None after its last.

        Raises:
            grpc.RpcError: The caller has gone.
        """
        arrival = StockArrival(self)
        with self._transit.receiving(arrival):
            message = next(self._messages, None)
            arrival.size = len(message or b"")
        return message

    def cut(self, why: Failure) -> None:
        """See `StreamCall.cut`; grpcio has no other status for that than CANCELLED, and no text."""
        _log.debug("cut", peer=self.peer, reason=why.message)
        self._context.cancel()

    def answers(self, route: Route) -> Iterator[bytes]:
        """Answers the call on the thread that iterates; yields what is sent, ends as the call does.

        Args:
            route: What answers.
        """
        steps = self._steps
        assert steps is not None
        outgoing, transit = self._outgoing, self._transit
        sending = StockTransfer(self)
        try:
            self._begin_by(route)
            while True:
                # What was written before a step is sent before it runs.
                while outgoing:
                    sending.unsent = sum(map(len, outgoing))
                    with transit.sending(sending):
                        yield outgoing.popleft()
                if self.code is not None:
                    break
                self.guard(steps.get())
        finally:
            # gRPC stops to iterate where the caller has gone.
            self._leave()
            self._steps = None
            if self._reader is not None:
                self._reader.close()
        if self._failure is not None:
            _fail(self._context, self._failure)

    def _begin_by(self, route: Route) -> None:
        """Begins to answer when the one message is there, or at once where the caller streams."""
        message: bytes | None = b""
        if route.check is not None:
            self.guard(route.check, self)
            if self.code is not None:
                return
        if route.call_type is CallType.BIDI_STREAM:
            self._reader = _Reader(self)
        else:
            try:
                message = self.receive()
            except grpc.RpcError as error:
                # As in `_Reader`.
                error.__traceback__ = None
                return
        if message is None:
            self.fail(NO_MESSAGE)
        else:
            self.guard(route.begin, self, message)

    def _leave(self) -> None:
        """Ends the call because gRPC is done with it: its caller has gone, or has its answer."""
        expired = self._seems_over or (
            self.deadline is not None and time.monotonic() >= self.deadline
        )
        self._end(CODES[Reason.DEADLINE_EXCEEDED if expired else Reason.CANCELLED])


class _Reader:
    """Takes a caller's messages on a thread of its own, each when it is asked for.

    Args:
        call: Is given the messages.
    """

    def __init__(self, call: StockCall) -> None:
        self._call: StockCall | None = call
        self._permits = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._read, name="stream-reader", daemon=True)
        self._thread.start()

    def permit(self) -> None:
        """Asks for one more message."""
        self._permits.release()

    def close(self) -> None:
        """Takes no more messages, and releases the call."""
        self._call = None
        self._permits.release()

    def _read(self) -> None:
        while self._deliver_next():
            pass

    def _deliver_next(self) -> bool:
        """Waits until the next message is asked for, and then for it; whether it was not the last.

        What it returns from holds no message while it waits for the next.
        """
        self._permits.acquire()
        call = self._call
        if call is None:
            return False
        try:
            message = call.receive()
        except grpc.RpcError as error:
            # The caller has gone, of which gRPC tells the call. It also keeps the error, in a cycle
            # of its own, which need not hold our frames.
            error.__traceback__ = None
            return False
        call.resume(call.deliver, message)
        return message is not None
