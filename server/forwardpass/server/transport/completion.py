"""The end of a call that several threads may end."""

import threading
from collections.abc import Sequence

from forwardpass.server.transport.call import Call, OnEnd


class Ending:
    """Keeps that a call ends once, and who wants to be told."""

    __slots__ = ("_callbacks", "_code", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._code: int | None = None
        self._callbacks: list[OnEnd] = []

    def on_end(self, call: Call, callback: OnEnd) -> None:
        """Has the callback called, or calls it if the call has ended; see `Call.on_end`."""
        with self._lock:
            if self._code is None:
                self._callbacks.append(callback)
                return
        callback(call, self._code)

    def begin(self, code: int) -> Sequence[OnEnd] | None:
        """Ends the call with a status; returns who is to be told, None if it has ended before."""
        with self._lock:
            if self._code is not None:
                return None
            self._code = code
            callbacks, self._callbacks = self._callbacks, []
        return callbacks
