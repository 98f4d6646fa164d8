"""A connection that keeps to HTTP/2 and its windows, and is as hostile as these allow."""

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, Self

from hpack import Encoder
from http2 import FRAME_BYTES, PREFACE, read_frames
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

_WINDOW = 65_535
_CANCEL = 8


def prefixed(message: bytes, *, size: int | None = None, compressed: bool = False) -> bytes:
    """Returns a message as gRPC sends it; `size` is what it claims to have."""
    return struct.pack(">BI", compressed, len(message) if size is None else size) + message


class Hostile:
    """A connection. What is sent waits for the server's windows; what comes is thrown away.

    Args:
        address: "host:port" of the server.
        window: Bytes of each answer that the server may send, ever.
    """

    def __init__(self, address: str, *, window: int = _WINDOW) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 30)
        self._encoder = Encoder()
        self._changed = threading.Condition()
        self._initial = _WINDOW
        self._windows = {0: _WINDOW}
        self._ended: set[int] = set()
        self._is_closed = False
        self._next = 1
        self._write(
            PREFACE, SettingsFrame(0, settings={4: window}), SettingsFrame(0, flags=["ACK"])
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its thread may be in the midst of waiting for more.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    @property
    def is_closed(self) -> bool:
        """Whether the server has hung up."""
        return self._is_closed

    def call(self, path: str, *metadata: tuple[str, str]) -> int:
        """Begins a call; returns its stream."""
        headers = self._headers(path, *metadata)
        self._write(headers)
        return headers.stream_id

    def take_back(self, path: str, count: int) -> None:
        """Begins calls, and resets each at once."""
        calls = [self._headers(path) for _ in range(count)]
        self._write(
            *(
                frame
                for call in calls
                for frame in (call, RstStreamFrame(call.stream_id, error_code=_CANCEL))
            )
        )

    def _headers(self, path: str, *metadata: tuple[str, str]) -> HeadersFrame:
        stream, self._next = self._next, self._next + 2
        block = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *metadata,
            ]
        )
        return HeadersFrame(stream, block, flags=["END_HEADERS"])

    def send(self, stream: int, content: bytes, *, last: bool = False) -> bool:
        """Sends as much as the server takes within some seconds; whether it took all."""
        begin = 0
        while begin < len(content):
            with self._changed:
                if not self._changed.wait_for(lambda: self._room(stream) != 0, 5):
                    return False
                count = min(self._room(stream), FRAME_BYTES, len(content) - begin)
                if count < 0:
                    return False
                self._windows[0] -= count
                self._windows[stream] -= count
            self._write(DataFrame(stream, content[begin : begin + count]))
            begin += count
        if last:
            self._write(DataFrame(stream, b"", flags=["END_STREAM"]))
        return True

    def has_ended(self, stream: int) -> bool:
        """Whether the server has ended a call."""
        return stream in self._ended or self._is_closed

    def wait_ended(self, streams: Sequence[int], seconds: float) -> None:
        """Waits until the server has ended calls, or some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: all(map(self.has_ended, streams)), seconds)

    def _room(self, stream: int) -> int:
        """Returns how many bytes may be sent; -1 where no more will ever be taken."""
        if self.has_ended(stream):
            return -1
        return max(0, min(self._windows[0], self._windows.setdefault(stream, self._initial)))

    def _write(self, *parts: Frame | bytes) -> None:
        data = b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
        try:
            self._socket.sendall(data)
        except OSError:
            self._is_closed = True

    def _read(self) -> None:
        # It may be closed on this side meanwhile.
        with contextlib.suppress(OSError):
            for frame in read_frames(self._socket):
                with self._changed:
                    self._take(frame)
                    self._changed.notify_all()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _take(self, frame: Any) -> None:
        stream = frame.stream_id
        if isinstance(frame, WindowUpdateFrame):
            self._windows[stream] = (
                self._windows.get(stream, self._initial) + frame.window_increment
            )
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self._initial = frame.settings.get(4, self._initial)
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._write(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
            self._ended.add(stream)
