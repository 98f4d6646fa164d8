"""A connection whose HTTP/2 frames a test writes itself, so that they may be wrong in any way."""

import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from conftest import Running
from hpack import Decoder, Encoder
from http2 import FRAME_BYTES, PREFACE, read_frames
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, SettingsFrame

from .harness import PATIENCE

PREDICT = "/forwardpass.v1.InferenceService/Predict"
# Error codes of HTTP/2.
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11
_PING = PingFrame(0, b"are you?")


class Wire:
    """A socket to a server, and what it takes to speak HTTP/2 on it by hand.

    Attributes:
        encoder: Writes header blocks; what it leaves in the server's table is good for one
            connection.
    """

    def __init__(self, running: Running) -> None:
        self.encoder = Encoder()
        self._decoder = Decoder()
        self._socket = socket.create_connection(("127.0.0.1", running.server.port), PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, *parts: Frame | bytes) -> None:
        """Sends frames, and bytes that need not be any, as far as the server takes them."""
        try:
            self._socket.sendall(
                b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
            )
        except (BrokenPipeError, ConnectionResetError):
            # It has hung up, which `frames` tells too.
            return

    def greet(self) -> int:
        """Makes a good beginning: both sides take the other's settings.

        Returns how many calls the server takes at a time.
        """
        self.send(PREFACE, SettingsFrame(0), SettingsFrame(0, flags=["ACK"]))
        seen = self.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" in frame.flags)
        settings: dict[int, int] = {}
        for frame in seen:
            if isinstance(frame, SettingsFrame):
                settings |= frame.settings
        return settings[SettingsFrame.MAX_CONCURRENT_STREAMS]

    def ask(self, stream: int, *metadata: tuple[str, str]) -> HeadersFrame:
        """Returns the frame that begins a Predict."""
        return HeadersFrame(stream, self.head(*metadata), flags=["END_HEADERS"])

    def head(self, *metadata: tuple[str, str]) -> bytes:
        """Returns the header block of a Predict."""
        block: bytes = self.encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", PREDICT),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *metadata,
            ]
        )
        return block

    def frames(self) -> Iterator[Frame]:
        """Returns what the server sends, until it hangs up."""
        return read_frames(self._socket)

    def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """Returns what the server sends up to the frame that is wanted."""
        seen = []
        for frame in self.frames():
            seen.append(frame)
            if wanted(frame):
                return seen
        raise AssertionError(f"the server hung up after {seen}")

    def ping(self) -> list[Frame]:
        """Returns what the server sends before it answers a ping, which it does not do often."""
        self.send(_PING)
        return self.until(_is_pong)

    def is_open(self) -> bool:
        """Whether the server answers a ping; else it hangs up."""
        self.send(_PING)
        return any(_is_pong(frame) for frame in self.frames())

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Returns the metadata of a call's answer, its grpc-status among it, and its bytes."""
        metadata: dict[str, str] = {}
        body = []
        for frame in self.frames():
            if isinstance(frame, HeadersFrame):
                # Those of other calls too: each changes the table that the next is read with.
                fields = self._decoder.decode(frame.data, raw=True)
                if frame.stream_id == stream:
                    metadata |= {name.decode(): value.decode() for name, value in fields}
            if frame.stream_id == stream:
                if isinstance(frame, DataFrame):
                    body.append(frame.data)
                if "END_STREAM" in frame.flags:
                    return metadata, b"".join(body)
        raise AssertionError(f"the server hung up after {metadata}")

    def trailers(self, stream: int) -> dict[str, str]:
        """Returns the metadata of a call's answer."""
        return self.answer(stream)[0]


def _is_pong(frame: Frame) -> bool:
    return isinstance(frame, PingFrame) and "ACK" in frame.flags


def data(stream: int, content: bytes, *, prefix: bytes | None = None) -> Sequence[Frame]:
    """Returns the frames of a call's one message.

    Args:
        stream: The call's.
        content: The message's bytes.
        prefix: What stands before it: whether it is compressed, and how long it is. Its own, by
            default.
    """
    if prefix is None:
        prefix = b"\0" + len(content).to_bytes(4, "big")
    body = prefix + content
    frames = [
        DataFrame(stream, body[at : at + FRAME_BYTES]) for at in range(0, len(body), FRAME_BYTES)
    ]
    frames[-1].flags.add("END_STREAM")
    return frames


def any_frame(kind: int, stream: int, body: bytes = b"", *, flags: int = 0) -> bytes:
    """Returns a frame by the numbers, allowed or not."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
