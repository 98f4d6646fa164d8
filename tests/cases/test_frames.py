"""T37 to T45: HTTP/2 as only a broken or hostile client speaks it."""

import socket
import threading
from collections import Counter

import grpc
import pytest
from conftest import Running, StartServer
from http2 import PREFACE
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from tiny_models import Publisher, picker

from forwardpass.server.transport import listener

from .frames import ENHANCE_YOUR_CALM, REFUSED_STREAM, Wire, any_frame, data
from .harness import (
    PATIENCE,
    assert_idle,
    connect,
    get,
    growing_at_most,
    metric,
    pick,
    picked,
    stub_of,
)

# No message is so long, but its length fits the field.
ENDLESS = b"\0\xff\xff\xff\xff"
COMPRESSED = b"\1\0\0\0\3"
RESET = 8


def resets(frames: list[Frame]) -> Counter[int]:
    """Returns how many streams were refused, by error code."""
    return Counter(frame.error_code for frame in frames if isinstance(frame, RstStreamFrame))


def goodbyes(frames: list[Frame]) -> list[int]:
    """Returns the error codes with which the connection was given up."""
    return [frame.error_code for frame in frames if isinstance(frame, GoAwayFrame)]


def assert_well(running: Running, other: grpc.Channel) -> None:
    """Holds that a connection made before is served, and so is a new one."""
    assert picked(stub_of(other).Predict(pick(3), timeout=PATIENCE)) == [3]
    with connect(running) as new:
        assert picked(stub_of(new).Predict(pick(2), timeout=PATIENCE)) == [2]
    assert_idle(running)


def test_t37_a_connection_carries_so_many_calls_and_no_more(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    # Each may become so long, and there is memory for all of them.
    running = start_server(max_message_bytes=1 << 20)
    with connect(running) as other, Wire(running) as wire:
        most = wire.greet()
        assert most == 256
        wire.send(*(wire.ask(2 * index + 1) for index in range(most + 76)))
        refused: list[Frame] = []
        while len(refused) < 76:
            frame = next(wire.frames())
            if isinstance(frame, RstStreamFrame):
                refused.append(frame)
        assert resets(refused) == {REFUSED_STREAM: 76}
        first = 2 * most + 1
        assert {frame.stream_id for frame in refused} == set(range(first, first + 152, 2))
        # Those that were taken are still served, and so are others.
        message = pick(1).SerializeToString()
        wire.send(*data(1, message))
        assert wire.trailers(1)["grpc-status"] == "0"
        assert not resets(wire.ping())
        assert picked(stub_of(other).Predict(pick(3), timeout=PATIENCE)) == [3]
    with connect(running) as other:
        assert_well(running, other)


def test_t38_calls_that_are_reset_at_once_harm_nobody_else(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    message = pick(1).SerializeToString()
    burst: list[Frame] = []
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        for stream in range(1, 10_001, 2):
            reset = RstStreamFrame(stream, error_code=RESET)
            burst += [wire.ask(stream), *data(stream, message), reset]
        calls = [stub_of(other).Predict.future(pick(3), timeout=PATIENCE) for _ in range(20)]
        wire.send(*burst)
        assert all(picked(call.result()) == [3] for call in calls)
        # How many of them are refused, and how many begun, depends on what arrives together.
        assert wire.is_open()
        assert_well(running, other)
    assert metric(running, "grpc_server_handled_total", grpc_code="INTERNAL") == 0


def test_t39_headers_that_never_end_are_not_kept(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        assert_well(running, other)
        wire.greet()
        with growing_at_most(20 << 20):
            wire.send(HeadersFrame(1, wire.head()))
            for index in range(2_000):
                header = [(f"x-{index}", "x" * 15_000)]
                wire.send(ContinuationFrame(1, wire.encoder.encode(header, huffman=False)))
            wire.send(ContinuationFrame(1, b"", flags=["END_HEADERS"]))
            # It hangs up, or has overlooked them.
            wire.is_open()
        assert_well(running, other)


def test_t40_pings_without_end_end_the_connection(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        wire.send(*[PingFrame(0, b"12345678")] * 2_000)
        assert goodbyes(list(wire.frames())) == [ENHANCE_YOUR_CALM]
        assert_well(running, other)


def test_t116_a_ping_every_10_s_is_answered_and_ends_nothing(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Go's clients do where they are told to. Here all times are a fiftieth of what they are."""
    monkeypatch.setattr(listener, "PING_SECONDS", listener.PING_SECONDS / 50)
    running = start_server()
    with Wire(running) as wire:
        wire.greet()
        for _ in range(8):
            assert not goodbyes(wire.ping())
            # The time itself is what is tried: pings are never closer together than this.
            threading.Event().wait(10 / 50)


def test_t41_settings_without_end_are_answered_and_not_kept(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        assert_well(running, other)
        with growing_at_most(10 << 20):
            wire.send(*[SettingsFrame(0, {1: 0, 4: 1 << 20})] * 5_000)
            for _ in range(5_000):
                wire.until(lambda frame: isinstance(frame, SettingsFrame))
        assert_well(running, other)


def test_t42_header_blocks_that_are_none_end_the_connection(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other:
        # A number, an index, a string and a size of the table that are too large.
        for block in (b"\xff" * 6, b"\xbf", b"\x40\x85", b"\x3f\xff\xff\xff\xff\x0f"):
            with Wire(running) as wire:
                wire.greet()
                wire.send(HeadersFrame(1, block, flags=["END_HEADERS"]))
                # Nobody knows any more what a later block means.
                assert not wire.is_open()
                assert_well(running, other)


@pytest.mark.parametrize(
    ("prefix", "code"), [(ENDLESS, "8"), (COMPRESSED, "13")], ids=["length", "compressed"]
)
def test_t42_messages_that_are_none_end_their_call_alone(
    repository: Publisher, start_server: StartServer, prefix: bytes, code: str
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        wire.send(wire.ask(1), wire.ask(3))
        with growing_at_most(10 << 20):
            wire.send(*data(3, b"abc", prefix=prefix))
            assert wire.trailers(3)["grpc-status"] == code
        wire.send(*data(1, pick(1).SerializeToString()))
        assert wire.trailers(1)["grpc-status"] == "0"
        assert_well(running, other)


MISPLACED = {
    "noise": b"\xff" * 64,
    "unknown": any_frame(0x63, 0),
    "huge": b"\xff\xff\xff" + any_frame(0, 1)[3:],
    "headers-0": any_frame(1, 0, b"\x88", flags=4),
    "headers-even": any_frame(1, 2, b"\x88", flags=4),
    "headers-padding": any_frame(1, 1, b"\xff\x88", flags=12),
    "continuation": any_frame(9, 1, b"\x88", flags=4),
    "data-0": any_frame(0, 0, b"abc"),
    "data-idle": any_frame(0, 99, b"abc"),
    "reset-idle": any_frame(3, 99, bytes([0, 0, 0, RESET])),
    "reset-length": any_frame(3, 1, b"abc"),
    "settings-length": any_frame(4, 0, b"abcde"),
    "settings-stream": any_frame(4, 1),
    "settings-window": any_frame(4, 0, b"\0\4\x80\0\0\0"),
    "window-overflow": any_frame(8, 0, b"\x7f\xff\xff\xff"),
    "window-zero": any_frame(8, 0, bytes(4)),
    "push": any_frame(5, 1, b"\0\0\0\2", flags=4),
    "ping-length": any_frame(6, 0, b"abc"),
    "goodbye-stream": any_frame(7, 1, bytes(8)),
}


def test_t42_frames_out_of_place_harm_nobody_else(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other:
        overlooked = set()
        for name, frame in MISPLACED.items():
            with Wire(running) as wire:
                wire.greet()
                wire.send(frame)
                if wire.is_open():
                    overlooked.add(name)
                assert_well(running, other)
        assert "unknown" in overlooked
        assert "noise" not in overlooked


@pytest.mark.parametrize("said", [b"", PREFACE[:10]], ids=["nothing", "half a preface"])
def test_t43_who_connects_and_does_not_go_on_is_hung_up_on(
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    said: bytes,
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.send(said)
        assert list(wire.frames())
        assert_well(running, other)


def test_t43_http_1_is_hung_up_on(repository: Publisher, start_server: StartServer) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.send(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        list(wire.frames())
        assert_well(running, other)


@pytest.mark.parametrize("part", [b"", b"\0\0\0\0\x09abc"], ids=["none", "truncated"])
def test_t44_a_call_without_a_whole_message_is_answered(
    repository: Publisher, start_server: StartServer, part: bytes
) -> None:
    repository("pick", picker())
    running = start_server()
    with connect(running) as other, Wire(running) as wire:
        wire.greet()
        wire.send(wire.ask(1), DataFrame(1, part, flags=["END_STREAM"]))
        assert wire.trailers(1)["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])
        assert_well(running, other)


def test_t45_so_many_connections_and_no_more(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(max_connections=5)
    with connect(running) as first:
        assert picked(stub_of(first).Predict(pick(1), timeout=PATIENCE)) == [1]
        wires = [Wire(running) for _ in range(4)]
        for wire in wires:
            wire.greet()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", running.server.port), PATIENCE) as one:
                one.sendall(PREFACE + SettingsFrame(0).serialize())
                assert not received(one)
        assert picked(stub_of(first).Predict(pick(2), timeout=PATIENCE)) == [2]
        assert get(running, "/livez")[0] == get(running, "/readyz")[0] == 200
        with connect(running) as late:
            call = stub_of(late).Predict.future(pick(3), timeout=PATIENCE, wait_for_ready=True)
            assert not call.done()
            with wires.pop():
                pass
            assert picked(call.result()) == [3]
    for wire in wires:
        with wire:
            assert not goodbyes(wire.ping())
    assert_idle(running)


def received(connection: socket.socket) -> bytes:
    """Returns what comes before the other side hangs up."""
    parts = []
    try:
        while part := connection.recv(1024):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
