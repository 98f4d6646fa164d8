"""Tries what the transport stands on, once at every start."""

import os
import threading
from functools import partial
from typing import Any

import grpc

from forwardpass.server.transport.call import Call
from forwardpass.server.transport.completion_queue.transport import CompletionQueueTransport
from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import CallType, Route
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.transit import Room, Transit

_PATIENCE = 5.0
_MESSAGE_BYTES = 1 << 20
_PLENTY = Room(1 << 40, 1 << 40)
_MESSAGE = b"\x00\x01forwardpass"


class ContractError(RuntimeError):
    """The installed grpcio does not do what the transport needs."""


def check_contract() -> None:
    """Serves and calls a unary and a bidirectional method, both answered from another thread.

    Raises:
        ContractError: Something of it fails, and what.
    """
    address = f"unix-abstract:forwardpass-{os.getpid()}-{threading.get_ident()}"
    try:
        listener = Listener(address, _MESSAGE_BYTES, 1, 1, None)
        transit = Transit(_MESSAGE_BYTES, lambda: _PLENTY, lambda: None)
        transport = CompletionQueueTransport(
            listener, _ROUTES, Tick(), transit, helpers=1, look=lambda _: None
        )
        transport.start()
        try:
            with grpc.insecure_channel(address) as channel:
                _try_unary(channel)
                _try_stream(channel)
        finally:
            transport.stop(_PATIENCE)
    except Exception as error:
        raise ContractError(f"{type(error).__name__}: {error}") from error


async def _answer(call: Call, message: bytes) -> bytes:
    if call.deadline is None or call.metadata.get("trial") != "yes":
        raise ValueError("a call came without its deadline or its metadata")
    return await call.offload(lambda: message)


async def _echo(call: StreamCall) -> None:
    async for message in call:
        await call.send(await call.offload(partial(bytes, message)))


_ROUTES = {
    "/trial/Answer": Route(
        CallType.UNARY, lambda call, message: call.drive(_answer(call, message))
    ),
    "/trial/Echo": Route(CallType.BIDI_STREAM, lambda call, _: call.drive_stream(_echo(call))),
}


def _try_unary(channel: grpc.Channel) -> None:
    answer: Any = channel.unary_unary("/trial/Answer")
    if answer(_MESSAGE, timeout=_PATIENCE, metadata=(("trial", "yes"),)) != _MESSAGE:
        raise ValueError("a message came back altered")
    nothing: Any = channel.unary_unary("/trial/None")
    try:
        nothing(b"", timeout=_PATIENCE)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    else:
        raise ValueError("a method that is not there answered")


def _try_stream(channel: grpc.Channel) -> None:
    echo: Any = channel.stream_stream("/trial/Echo")
    if list(echo(iter([_MESSAGE] * 3), timeout=_PATIENCE)) != [_MESSAGE] * 3:
        raise ValueError("a stream came back altered")
