"""The order in which the loop does what it has taken from the queue."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from forwardpass.server.transport.completion_queue import transport as module
from forwardpass.server.transport.completion_queue.transport import CompletionQueueTransport
from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import CallType, Route, Routes
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.transit import LONG_BYTES, Room, Transit

PATIENCE = 60
MIB = 1 << 20
STREAMS = 8
Start = Callable[[Routes], grpc.Channel]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the transport, and connects a client; stops both in the end."""
    transports: list[CompletionQueueTransport] = []
    channels: list[grpc.Channel] = []

    def start(routes: Routes) -> grpc.Channel:
        listener = Listener("127.0.0.1:0", MIB, max_in_flight=64, max_open=64, certificates=None)
        transit = Transit(MIB, lambda: Room(1 << 30, 1 << 30), lambda: None)
        transport = CompletionQueueTransport(
            listener, routes, Tick(), transit, helpers=1, look=lambda _: None
        )
        transports.append(transport)
        channels.append(grpc.insecure_channel(f"127.0.0.1:{transport.start()}"))
        return channels[-1]

    yield start
    for channel in channels:
        channel.close()
    for transport in transports:
        transport.stop(0)


def acquire_all(semaphore: threading.Semaphore) -> None:
    """Waits until each stream has released it."""
    for _ in range(STREAMS):
        assert semaphore.acquire(timeout=PATIENCE)


def test_a_result_of_another_thread_waits_for_one_long_message_at_most(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These are taken in at once; those that are really long take all the time of a tick.
    monkeypatch.setattr(module, "_LATER_SECONDS", 0)
    order: list[str] = []
    reading, sent = threading.Semaphore(0), threading.Semaphore(0)
    computing, is_held, may_go_on, has_long, is_posted = (threading.Event() for _ in range(5))

    async def take(call: StreamCall) -> None:
        reading.release()
        async for _ in call:
            # The first of them keeps the loop until the result has come.
            has_long.set()
            assert is_posted.wait(PATIENCE)
            order.append("long")

    def compute(call: StreamCall, _: bytes) -> None:
        def answer() -> None:
            order.append("result")
            call.reply(b"")

        def work() -> None:
            assert has_long.wait(PATIENCE)
            call.resume(answer)
            is_posted.set()

        call.submit(work, waits=True)
        computing.set()

    def hold(call: StreamCall, _: bytes) -> None:
        is_held.set()
        assert may_go_on.wait(PATIENCE)
        call.reply(b"")

    def take_all(call: StreamCall, _: bytes) -> None:
        call.drive_stream(take(call))

    channel = start(
        {
            "/test/Take": Route(CallType.BIDI_STREAM, take_all),
            "/test/Compute": Route(CallType.UNARY, compute),
            "/test/Hold": Route(CallType.UNARY, hold),
        }
    )

    def messages() -> Iterator[bytes]:
        assert is_held.wait(PATIENCE)
        yield bytes(LONG_BYTES + 1)
        # Who is asked for the next message has written the one before.
        sent.release()

    stream: Any = channel.stream_stream("/test/Take")
    streams = [stream(messages(), timeout=PATIENCE) for _ in range(STREAMS)]
    acquire_all(reading)
    calls = []
    for method, has_come in (("/test/Compute", computing), ("/test/Hold", is_held)):
        unary: Any = channel.unary_unary(method)
        calls.append(unary.future(b"", timeout=PATIENCE))
        assert has_come.wait(PATIENCE)
    acquire_all(sent)
    may_go_on.set()
    assert [call.result() for call in calls] == [b"", b""]
    assert [list(answers) for answers in streams] == [[]] * STREAMS
    assert order == ["long", "result"] + ["long"] * (STREAMS - 1)
