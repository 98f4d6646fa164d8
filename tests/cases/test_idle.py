"""T111: what becomes of connections without calls, and of who waits for their places."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from conftest import Running, StartServer
from hyperframe.frame import Frame, GoAwayFrame, PingFrame
from tiny_models import Publisher, picker

from forwardpass.server.transport import listener

from .frames import Wire, data
from .harness import PATIENCE, assert_idle, connect, pick, picked, stub_of

PLACES = 4
# What core says as it closes an idle connection, with INTERNAL_ERROR.
IDLE = (2, b"connection idle")


@contextmanager
def wires(running: Running) -> Iterator[Sequence[Wire]]:
    """Takes every place with a connection that has not even begun."""
    with ExitStack() as stack:
        yield [stack.enter_context(Wire(running)) for _ in range(PLACES)]


def goodbyes(frames: list[Frame]) -> list[tuple[int, bytes]]:
    return [(one.error_code, one.additional_data) for one in frames if isinstance(one, GoAwayFrame)]


def assert_enters(running: Running) -> None:
    """Holds that a newcomer is answered, once there is a place."""
    with connect(running) as newcomer:
        call = stub_of(newcomer).Predict(pick(3), timeout=PATIENCE, wait_for_ready=True)
        assert picked(call) == [3]
    assert_idle(running)


@pytest.mark.parametrize("has_called", [False, True])
def test_t111_an_idle_connection_gives_its_place_to_a_newcomer(
    repository: Publisher, start_server: StartServer, has_called: bool
) -> None:
    repository("pick", picker())
    running = start_server(max_connections=PLACES, connection_idle_seconds=1)
    with wires(running) as idle:
        for wire in idle:
            wire.greet()
            if has_called:
                wire.send(wire.ask(1), *data(1, pick(1).SerializeToString()))
                assert wire.trailers(1)["grpc-status"] == "0"
        assert_enters(running)
        for wire in idle:
            assert goodbyes(list(wire.frames())) == [IDLE]


def test_t111_a_connection_that_never_begins_gives_its_place_to_a_newcomer(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 1.0)
    repository("pick", picker())
    running = start_server(max_connections=PLACES)
    with wires(running) as silent:
        assert_enters(running)
        for wire in silent:
            list(wire.frames())


def test_t111_a_connection_that_only_pings_is_idle(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PING_SECONDS", 0.1)
    repository("pick", picker())
    running = start_server(max_connections=PLACES, connection_idle_seconds=1)
    with wires(running) as pinging:
        heard: list[list[Frame]] = [[] for _ in pinging]
        over = threading.Event()

        def listen(index: int) -> None:
            heard[index].extend(pinging[index].frames())
            if all(goodbyes(frames) for frames in heard):
                over.set()

        for wire in pinging:
            wire.greet()
        threads = [threading.Thread(target=listen, args=[index]) for index in range(PLACES)]
        for thread in threads:
            thread.start()
        # The time between them is what is tried: as often as the server takes them.
        for _ in range(4 * PATIENCE):
            if over.wait(0.25):
                break
            for wire in pinging:
                wire.send(PingFrame(0, b"are you?"))
        for thread in threads:
            thread.join(PATIENCE)
        for frames in heard:
            assert goodbyes(frames) == [IDLE]
            assert sum(isinstance(frame, PingFrame) for frame in frames) >= 2
        assert_enters(running)


def test_t111_a_call_that_is_open_keeps_its_connection_from_being_idle(
    repository: Publisher, start_server: StartServer
) -> None:
    """Its message never comes: until the connection comes of age, as T44 has it."""
    repository("pick", picker())
    running = start_server(connection_idle_seconds=0.5)
    with Wire(running) as calling:
        calling.greet()
        calling.send(calling.ask(1))
        for _ in range(2):
            with Wire(running) as idle:
                idle.greet()
                assert goodbyes(list(idle.frames())) == [IDLE]
        assert not goodbyes(calling.ping())
        # The call is answered, and then the connection is like any other.
        calling.send(*data(1, pick(1).SerializeToString()))
        assert calling.trailers(1)["grpc-status"] == "0"
        assert goodbyes(list(calling.frames())) == [IDLE]


def test_t111_who_calls_now_and_then_does_not_notice(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_connections=PLACES, connection_idle_seconds=0.2)
    with connect(running) as channel:
        states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
        channel.subscribe(states.put)
        for index in range(3):
            assert picked(stub_of(channel).Predict(pick(index), timeout=PATIENCE)) == [index]
            while states.get(timeout=PATIENCE) is not grpc.ChannelConnectivity.READY:
                pass
            # The server has closed the connection: the next call makes another.
            while states.get(timeout=PATIENCE) is not grpc.ChannelConnectivity.IDLE:
                pass
        # And at about the time when it closes.
        for index in range(20):
            threading.Event().wait(0.19 + index % 5 / 200)
            assert picked(stub_of(channel).Predict(pick(1), timeout=PATIENCE)) == [1]
    assert_idle(running)
