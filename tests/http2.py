"""What tests share that write and read HTTP/2 frames themselves."""

import socket
from collections.abc import Iterator

from hyperframe.frame import Frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What both sides may send until they have agreed on more.
FRAME_BYTES = 16_384
_HEADER_BYTES = 9


def read_frames(connection: socket.socket) -> Iterator[Frame]:
    """Yields what the other side sends, until it hangs up."""
    while (header := _read(connection, _HEADER_BYTES)) is not None:
        frame, size = Frame.parse_frame_header(memoryview(header))
        body = _read(connection, size)
        if body is None:
            return
        frame.parse_body(memoryview(body))
        yield frame


def _read(connection: socket.socket, count: int) -> bytes | None:
    """Returns so many bytes; None where the other side has hung up."""
    data = bytearray()
    while len(data) < count:
        try:
            more = connection.recv(count - len(data))
        except ConnectionResetError:
            return None
        if not more:
            return None
        data += more
    return bytes(data)
