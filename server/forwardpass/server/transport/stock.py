"""The transport on grpcio's public API: a thread for each call. It is the reference."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import NoReturn

import grpc

from forwardpass.server.transport.call import (
    Call,
    CallType,
    OnEnd,
    Receiver,
    Route,
    Routes,
    Transport,
    Ts,
)
from forwardpass.server.transport.completion import Ending
from forwardpass.server.transport.listener import MAX_STREAMS, Listener
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.wire import CODES, Failure, Reason

_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# Threads beyond those that one connection can hold: they answer health checks and refusals.
_SPARE_THREADS = 32


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
        call = StockCall(method, context)
        call.guard(lambda: _no_receiver(route.handle(call, message)))
        return next(call.messages(), b"")

    def server_stream(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        call = StockCall(method, context)
        call.guard(lambda: _no_receiver(route.handle(call, message)))
        return call.messages()

    def bidi_stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = StockCall(method, context)
        call.guard(lambda: call.receive(messages, route.handle(call, b"")))
        return call.messages()

    if route.kind is CallType.UNARY:
        return grpc.unary_unary_rpc_method_handler(unary)
    if route.kind is CallType.SERVER_STREAM:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.stream_stream_rpc_method_handler(bidi_stream)


def _no_receiver(receiver: Receiver | None) -> None:
    if receiver is not None:
        raise TypeError("a handler of one message gave a receiver")


class _Read:
    """Asks for the next message of a stream, when what stands before it has been written."""


class _End:
    """Follows the last message of a call that ended well, or whose caller has gone."""


class StockCall(Call):
    """A call whose own thread waits in `messages` for what the handler sends."""

    def __init__(self, method: str, context: grpc.ServicerContext) -> None:
        remaining = context.time_remaining()
        super().__init__(
            method,
            # grpcio gives a call without a deadline a remaining time of centuries, or None.
            None if remaining is None or remaining > 1e9 else time.monotonic() + remaining,
        )
        self._context = context
        self._outbox: queue.SimpleQueue[bytes | Failure | _Read | _End | Callable[[], None]] = (
            queue.SimpleQueue()
        )
        self._permits = threading.Semaphore(0)
        self._ending = Ending()
        if not context.add_callback(self._on_context_end):
            self._on_context_end()

    @cached_property
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
        self._outbox.put(message)
        self.finish()

    def send(self, message: bytes) -> None:
        """See `Call.send`."""
        self._outbox.put(message)

    def finish(self) -> None:
        """See `Call.finish`."""
        self._end(grpc.StatusCode.OK.value[0], _End())

    def fail(self, failure: Failure) -> None:
        """See `Call.fail`."""
        self._end(failure.code, failure)

    def read(self) -> None:
        """See `Call.read`."""
        self._outbox.put(_Read())

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """See `Call.resume`."""
        self._outbox.put(partial(step, *args))

    def offload(self, step: Callable[[], None]) -> None:
        """See `Call.offload`: the thread is the call's own."""
        self.guard(step)

    def on_end(self, callback: OnEnd) -> None:
        """See `Call.on_end`."""
        self._ending.on_end(self, callback)

    def messages(self) -> Iterator[bytes]:
        """Yields what is sent, runs what is resumed, and ends as the call does."""
        while True:
            item = self._outbox.get()
            if isinstance(item, bytes):
                yield item
            elif isinstance(item, _Read):
                self._permits.release()
            elif isinstance(item, _End):
                return
            elif isinstance(item, Failure):
                self._abort(item)
            else:
                self.guard(item)

    def receive(self, messages: Iterator[bytes], receiver: Receiver | None) -> None:
        """Has a thread hand the caller's messages to the receiver, each when it is asked for."""
        if receiver is None:
            raise TypeError("a handler of a stream gave no receiver")

        def deliver() -> None:
            while True:
                self._permits.acquire()
                try:
                    message = next(messages, None)
                except grpc.RpcError:
                    return  # The caller has gone; `on_end` tells.
                self.guard(lambda message=message: receiver(message))  # type: ignore[misc]  # bound now
                if message is None:
                    return

        threading.Thread(target=deliver, name="stream-reader", daemon=True).start()

    def _abort(self, failure: Failure) -> NoReturn:
        self._context.set_trailing_metadata(trailing_metadata(failure))
        self._context.abort(_STATUS_CODES[failure.code], failure.message)

    def _end(self, code: int, last: _End | Failure) -> None:
        callbacks = self._ending.begin(code)
        if callbacks is None:
            return
        self._outbox.put(last)
        for callback in callbacks:
            callback(self, code)

    def _on_context_end(self) -> None:
        """Runs when gRPC is done with the call: our own end, or the caller's."""
        expired = self.deadline is not None and time.monotonic() >= self.deadline
        reason = Reason.DEADLINE_EXCEEDED if expired else Reason.CANCELLED
        self._end(CODES[reason], _End())
        self._permits.release()
