"""What the supervisor and a worker tell each other: JSON, a message a line."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any


class Pipe:
    """One end of a pair of sockets. Whoever holds the other end is gone when messages end.

    Args:
        end: The socket, which the pipe closes.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lines = end.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Sends a message; nothing once the other end has gone, which reading tells."""
        self._send(message, 0)

    def offer(self, message: object) -> bool:
        """Sends a short message unless that would wait, as it does for one who does not read."""
        return self._send(message, socket.MSG_DONTWAIT)

    def messages(self) -> Iterator[Any]:
        """Yields what the other end sends, until it has gone."""
        try:
            for line in self._lines:
                if line.endswith(b"\n"):  # Else it went in the middle of a message.
                    yield json.loads(line)
        except ConnectionResetError:
            return

    def close(self) -> None:
        """Closes this end."""
        self._lines.close()
        self._end.close()

    def _send(self, message: object, flags: int) -> bool:
        with self._lock:
            try:
                self._end.sendall(json.dumps(message).encode() + b"\n", flags)
            except OSError:
                return False
        return True
