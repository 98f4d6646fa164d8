"""What a caller may send so that there is no memory, no slot or no time left for others.

Each runs in a process of its own, until its time is over.
"""

import gzip
import io
import itertools
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import numpy as np
from http2 import PREFACE
from hyperframe.frame import SettingsFrame
from PIL import Image

from forwardpass.v1.inference_service_pb2 import (
    GenerateRequest,
    PredictRequest,
    PredictStreamRequest,
)
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from forwardpass.wire import to_tensor

from .wire import Hostile, prefixed

SERVICE = "/forwardpass.v1.InferenceService"
# Of all that an attack sends at a time.
_TOTAL = 2 << 30
_HOLD_SECONDS = 2.0
_ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Attack = Callable[[str, int, float], None]


def _echo(cap: int) -> PredictRequest:
    """Returns a request whose message is just under the cap, and so is its answer."""
    x = np.zeros((cap - 4096) // 4, np.float32)
    return PredictRequest(model=ModelReference(name="echo"), inputs={"x": to_tensor(x)})


def _connections(address: str, count: int, stack: ExitStack, **kwargs: Any) -> list[Hostile]:
    return [stack.enter_context(Hostile(address, **kwargs)) for _ in range(count)]


def samples_unread(address: str, cap: int, end: float) -> None:
    """Asks for samples as many as a message holds, and reads none."""
    message = prefixed(
        GenerateRequest(model=ModelReference(name="gen"), count=1024).SerializeToString()
    )
    while time.monotonic() < end:
        with Hostile(address, window=0) as connection:
            calls = []
            for _ in range(_TOTAL // cap):
                calls.append(connection.call(f"{SERVICE}/Generate"))
                connection.send(calls[-1], message, last=True)
            connection.wait_ended(calls, max(0, min(end - time.monotonic(), 20)))


def answers_unread(address: str, cap: int, end: float) -> None:
    """Sends what comes back as it is, and reads none of it."""
    message = prefixed(_echo(cap).SerializeToString())
    while time.monotonic() < end:
        with ExitStack() as stack:
            for connection in _connections(address, 4, stack, window=0):
                for _ in range(_TOTAL // cap // 4):
                    stream = connection.call(f"{SERVICE}/Predict")
                    connection.send(stream, message, last=True)
                    if time.monotonic() > end:
                        return


def packed(address: str, cap: int, end: float) -> None:
    """Sends requests that are small until they are unpacked."""
    message = prefixed(gzip.compress(_echo(cap).SerializeToString()), compressed=True)
    while time.monotonic() < end:
        with ExitStack() as stack:
            for connection in _connections(address, 4, stack):
                calls = []
                for _ in range(_TOTAL // cap // 4):
                    calls.append(connection.call(f"{SERVICE}/Predict", ("grpc-encoding", "gzip")))
                    connection.send(calls[-1], message, last=True)
                connection.wait_ended(calls, _HOLD_SECONDS)


def _unfinished(address: str, cap: int, end: float, count: int) -> None:
    message = prefixed(bytes(cap - 8192), size=cap - 4096)
    while time.monotonic() < end:
        with ExitStack() as stack:
            for connection in _connections(address, count, stack):
                for _ in range(_TOTAL // cap // count):
                    connection.send(connection.call(f"{SERVICE}/Predict"), message)
                    if time.monotonic() > end:
                        return


def unfinished(address: str, cap: int, end: float) -> None:
    """Sends requests but for their end, all on one connection."""
    _unfinished(address, cap, end, 1)


def unfinished_everywhere(address: str, cap: int, end: float) -> None:
    """Sends requests but for their end, each on a connection of its own."""
    _unfinished(address, cap, end, _TOTAL // cap)


def streams_full(address: str, cap: int, end: float) -> None:
    """Sends as much on each of several streams as is taken, and reads no answer."""
    request = PredictStreamRequest(request=_echo(cap))
    message = prefixed(request.SerializeToString())
    while time.monotonic() < end:
        with ExitStack() as stack:
            for connection in _connections(address, max(3, _TOTAL // cap // 8), stack, window=0):
                stream = connection.call(f"{SERVICE}/PredictStream")
                for _ in range(8):
                    if not connection.send(stream, message) or time.monotonic() > end:
                        break


def streams_silent(address: str, cap: int, end: float) -> None:
    """Opens streams, and sends nothing on them."""
    while time.monotonic() < end:
        with Hostile(address) as connection:
            calls = [connection.call(f"{SERVICE}/EmbedStream") for _ in range(256)]
            connection.wait_ended(calls, min(max(0, end - time.monotonic()), 20))


def floods(address: str, cap: int, end: float) -> None:
    """Opens thousands of watches of health, then some that never say of what, then of calls."""
    watch, predict = "/grpc.health.v1.Health/Watch", f"{SERVICE}/Predict"
    small = prefixed(_echo(8192).SerializeToString())
    kinds = itertools.cycle([(watch, prefixed(b"")), (watch, None), (predict, small)])
    while time.monotonic() < end:
        path, message = next(kinds)
        with ExitStack() as stack:
            for connection in _connections(address, 20, stack):
                for _ in range(1000):
                    stream = connection.call(path)
                    if message is not None:
                        connection.send(stream, message, last=True)
                    if time.monotonic() > end:
                        return


def resets(address: str, cap: int, end: float) -> None:
    """Opens calls and takes each back at once, on a few connections."""
    while time.monotonic() < end:
        with ExitStack() as stack:
            connections = _connections(address, 4, stack)
            for connection in connections * 100:
                connection.take_back(f"{SERVICE}/Predict", 100)
                if time.monotonic() > end:
                    return


def expired(address: str, cap: int, end: float) -> None:
    """Asks for what takes longer than it waits, and asks again."""
    request = GenerateRequest(model=ModelReference(name="gen"), count=256)
    with grpc.insecure_channel(address, _ANY_SIZE) as channel:
        generate: Any = InferenceServiceStub(channel).Generate
        while time.monotonic() < end:
            calls = [generate.future(request, timeout=0.002 * (1 + n % 8)) for n in range(100)]
            for call in calls:
                call.exception()


def overload(address: str, cap: int, end: float) -> None:
    """Asks for many times what can be answered, over two connections, and waits for 0.2 s."""
    request = GenerateRequest(model=ModelReference(name="gen"), count=64)
    with ExitStack() as stack:
        stubs: list[Any] = []
        for _ in range(2):
            options = [*_ANY_SIZE, ("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.insecure_channel(address, options))
            stubs.append(InferenceServiceStub(channel))
        while time.monotonic() < end:
            calls = [stub.Generate.future(request, timeout=0.2) for stub in stubs * 200]
            for call in calls:
                call.exception()


def claims(address: str, cap: int, end: float) -> None:
    """Sends little that claims to be, unpacks to, or is parsed into far more than the cap."""
    name = ModelReference(name="echo")
    shapes: tuple[tuple[int, ...], ...] = ((1 << 33, 1 << 33), (1 << 31,), (-1, 4), (1,) * 4096)
    requests = [
        PredictRequest(
            model=name, inputs={"x": Tensor(data_type=DATA_TYPE_FLOAT32, shape=shape, content=b"1")}
        )
        for shape in shapes
    ]
    # Groups that are opened and not closed, and inputs that are empty, each an object to a parser.
    nested, crumbs = b"\x0b" * (1 << 20), b"\x2a\x00" * (min(cap, 4 << 20) // 2 - 64)
    bomb = prefixed(gzip.compress(bytes(2 * cap)), compressed=True)
    sent = [(f"{SERVICE}/Predict", prefixed(one.SerializeToString())) for one in requests]
    sent += [
        (f"{SERVICE}/Predict", prefixed(nested)),
        ("/inference.GRPCInferenceService/ModelInfer", prefixed(crumbs)),
        (f"{SERVICE}/Predict", prefixed(b"", size=0xFFFFFFFF)),
    ]
    while time.monotonic() < end:
        with Hostile(address) as connection:
            calls = []
            for path, message in sent:
                calls.append(connection.call(path))
                connection.send(calls[-1], message, last=True)
            calls.append(connection.call(f"{SERVICE}/Predict", ("grpc-encoding", "gzip")))
            connection.send(calls[-1], bomb, last=True)
            connection.wait_ended(calls, _HOLD_SECONDS)


def churn(address: str, cap: int, end: float) -> None:
    """Connects and goes, and takes most connections for callers who never say anything."""
    host, _, port = address.rpartition(":")
    while time.monotonic() < end:
        with ExitStack() as stack:
            for number in range(900):
                # Those beyond the most connections are hung up on.
                with suppress(OSError):
                    idle = stack.enter_context(socket.create_connection((host, int(port)), 5))
                    idle.sendall(PREFACE[: 10 * (number % 2)])
            for _ in range(2000):
                if time.monotonic() > end:
                    return
                with suppress(OSError), socket.create_connection((host, int(port)), 5) as one:
                    one.sendall(PREFACE + SettingsFrame(0).serialize())


def outputs_by_value(address: str, cap: int, end: float) -> None:
    """Asks a model for outputs of any size."""
    with grpc.insecure_channel(address) as channel:
        predict: Any = InferenceServiceStub(channel).Predict
        while time.monotonic() < end:
            for elements in (16 << 20, 40 << 20, 60 << 20, 100 << 20, 1 << 30, 1 << 40):
                shape = to_tensor(np.array([elements], np.int64))
                request = PredictRequest(
                    model=ModelReference(name="maker"), inputs={"shape": shape}
                )
                calls = [predict.future(request, timeout=30) for _ in range(4)]
                for call in calls:
                    with suppress(grpc.RpcError):
                        call.result()


def pictures(address: str, cap: int, end: float) -> None:
    """Sends pictures that are small until they are decoded, and goes."""
    requests = [
        _images("L", (5600, 5600), 200, cap),
        # Just under the most pixels, and of the kind that takes the most of each.
        _images("LA", (8000, 7999), 8, cap),
    ]
    with grpc.insecure_channel(address, _ANY_SIZE) as channel:
        predict: Any = InferenceServiceStub(channel).Predict
        while time.monotonic() < end:
            calls = [predict.future(request, timeout=3) for request in requests * 3]
            for call in calls:
                with suppress(grpc.RpcError):
                    call.result()


def _images(mode: str, size: tuple[int, int], most: int, cap: int) -> PredictRequest:
    """Returns a request with an image so often, or as often as the cap lets it be."""
    png = io.BytesIO()
    Image.new(mode, size).save(png, "PNG")
    count = min(most, cap // (len(png.getvalue()) + 64))
    return PredictRequest(model=ModelReference(name="clf"), images=[png.getvalue()] * count)


# To whose harm it matters how long a message may be, and to whose it does not.
BY_SIZE: tuple[Attack, ...] = (
    samples_unread,
    answers_unread,
    packed,
    unfinished,
    unfinished_everywhere,
    streams_full,
    outputs_by_value,
    pictures,
    claims,
)
OTHERS: tuple[Attack, ...] = (streams_silent, floods, resets, expired, overload, churn)
# Those that a case elsewhere makes on a small scale.
LONG_ONLY: tuple[Attack, ...] = (claims, expired, overload, churn)


def run(attack: Attack, address: str, cap: int, seconds: float) -> None:
    """Attacks for some seconds."""
    attack(address, cap, time.monotonic() + seconds)
