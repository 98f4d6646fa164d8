"""The transport on grpcio's public API: a thread for each call. It is the reference."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from forwardpass.server.transport.call import Ts
from forwardpass.server.transport.listener import MAX_STREAMS, Listener
from forwardpass.server.transport.route import CallType, Route, Routes, Transport
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.wire import CODES, Failure, Reason

_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# Threads beyond those that one connection can hold: they answer health checks and refusals.
_SPARE_THREADS = 32
_OK = 0
_Step = Callable[[], None]


class StockTransport(Transport):
    """grpc.server with handlers that take and give bytes."""

    def __init__(self, listener: Listener, routes: Routes) -> None:
        self._listener = listener
        # A call takes a thread before it is admitted, and holds it if its message never comes.
        threads = max(listener.max_in_flight, MAX_STREAMS) + _SPARE_THREADS
        self._server = grpc.server(
            ThreadPoolExecutor(threads, "call"),
            handlers=[_Handlers(routes)],
            options=listener.channel_arguments(),
        )

    def start(self) -> int:
        """See `Transport.start`."""
        port = self._listener.bind(self._add_port)
        self._server.start()
        return port

    def is_alive(self) -> bool:
        """See `Transport.is_alive`: no thread answers for the others, so it always is."""
        return True

    def stop(self, grace: float) -> None:
        """See `Transport.stop`."""
        self._server.stop(grace).wait()

    def _add_port(self, address: str) -> int:
        certificates = self._listener.certificates
        if certificates is None:
            return self._server.add_insecure_port(address)
        authority = certificates.client_authority
        credentials = grpc.ssl_server_credentials(
            [(certificates.key, certificates.chain)],
            authority,
            require_client_auth=authority is not None,
        )
        return self._server.add_secure_port(address, credentials)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the route of a method; grpcio answers UNIMPLEMENTED where there is none."""

    def __init__(self, routes: Routes) -> None:
        self._handlers = {method: _handler(method, route) for method, route in routes.items()}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handlers.get(handler_call_details.method)


def _handler(method: str, route: Route) -> "grpc.RpcMethodHandler[bytes, bytes]":
    def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
        return next(StockCall(method, context).messages(route, message), b"")

    def server_stream(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        return StockCall(method, context).messages(route, message)

    def bidi_stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return StockCall(method, context, messages).messages(route, b"")

    if route.call_type is CallType.UNARY:
        return grpc.unary_unary_rpc_method_handler(unary)
    if route.call_type is CallType.SERVER_STREAM:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.stream_stream_rpc_method_handler(bidi_stream)


class StockCall(StreamCall):
    """A call with a thread of its own, which runs in `messages`.

    Args:
        method: The path.
        context: gRPC's view of the call.
        messages: The caller's messages; None where it sends one, which has been received.
    """

    __slots__ = ("_context", "_failure", "_outgoing", "_reader", "_steps")

    def __init__(
        self,
        method: str,
        context: grpc.ServicerContext,
        messages: Iterator[bytes] | None = None,
    ) -> None:
        remaining = context.time_remaining()
        super().__init__(
            method,
            # grpcio gives a call without a deadline a remaining time of centuries, or None.
            None if remaining is None or remaining > 1e9 else time.monotonic() + remaining,
        )
        self._context = context
        # None once the call has ended: what is still resumed then holds on to nothing.
        self._steps: queue.SimpleQueue[_Step] | None = queue.SimpleQueue()
        self._outgoing: deque[bytes] = deque()
        self._failure: Failure | None = None
        self._reader = None if messages is None else _Reader(self, messages)
        if not context.add_callback(lambda: self.resume(self._leave)):
            self.resume(self._leave)

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Call.metadata`."""
        pairs = self._context.invocation_metadata()
        return {key: value for key, value in pairs if isinstance(value, str)}

    @property
    def peer(self) -> str:
        """See `Call.peer`."""
        peer: str = self._context.peer()
        return peer

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

    def messages(self, route: Route, message: bytes) -> Iterator[bytes]:
        """Answers the call on the thread that iterates; yields what is sent, ends as the call does.

        Args:
            route: What answers.
            message: The caller's one message; empty where it streams.
        """
        steps = self._steps
        assert steps is not None
        try:
            self.guard(route.begin, self, message)
            while True:
                # What was written before a step is sent before it runs.
                while self._outgoing:
                    yield self._outgoing.popleft()
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
            self._context.set_trailing_metadata(trailing_metadata(self._failure))
            self._context.abort(_STATUS_CODES[self._failure.code], self._failure.message)

    def _leave(self) -> None:
        """Ends the call because gRPC is done with it: its caller has gone, or has its answer."""
        expired = self.deadline is not None and time.monotonic() >= self.deadline
        self._end(CODES[Reason.DEADLINE_EXCEEDED if expired else Reason.CANCELLED])


class _Reader:
    """Takes a caller's messages on a thread of its own, each when it is asked for.

    Args:
        call: Is given the messages.
        messages: Them; it waits for the next.
    """

    def __init__(self, call: StockCall, messages: Iterator[bytes]) -> None:
        self._call: StockCall | None = call
        self._messages = messages
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
        try:
            message = next(self._messages, None)
        except grpc.RpcError as error:
            # The caller has gone, of which gRPC tells the call. It also keeps the error, in a cycle
            # of its own, which need not hold our frames.
            error.__traceback__ = None
            return False
        call = self._call
        if call is None:
            return False
        call.resume(call.deliver, message)
        return message is not None
