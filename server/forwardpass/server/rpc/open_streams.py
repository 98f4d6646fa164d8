"""The streams that are open by a token, which end once the token no longer permits them.

A token is looked at when a call begins, which for a stream may be long ago. While there are any, a
thread looks once a second: a call that comes would do, but perhaps none does.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from forwardpass.server.rpc.tokens import Permission, Token, refusal
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Failure, Reason

_LOOK_SECONDS = 1.0
_TAKEN_BACK = Failure(
    Reason.UNAUTHENTICATED,
    "the token of this stream has been taken back; open another stream with the one that replaces "
    "it, or ask the operator for one",
)
_log = structlog.get_logger()


@dataclass(slots=True)
class _Grant:
    """By what a stream is open.

    Attributes:
        call: The stream.
        digest: The SHA-256 of its token.
        permission: What the token has to permit.
        is_over: Whether the stream has been told to end.
    """

    call: StreamCall
    digest: bytes
    permission: Permission
    is_over: bool = False


class OpenStreams:
    """The calls with many messages that carry a token.

    Args:
        tokens: Returns the tokens that hold.
        count: Counts a stream that is ended.
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]], count: Callable[[], object]) -> None:
        self._tokens = tokens
        self._count = count
        self._lock = threading.Lock()
        self._open: dict[Call, _Grant] = {}
        self._is_looking = False

    def follow(self, call: StreamCall, token: Token, permission: Permission) -> None:
        """Has a stream end once a token that it carries no longer holds or permits it."""
        with self._lock:
            self._open[call] = _Grant(call, token.digest, permission)
        call.on_end(self._forget)
        with self._lock:
            if not self._is_looking:
                threading.Thread(target=self._look_on, name="open_streams", daemon=True).start()
                self._is_looking = True

    def _forget(self, call: Call, _: int) -> None:
        with self._lock:
            del self._open[call]

    def _look_on(self) -> None:
        """Looks until no stream is open."""
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                self._look()
            except Exception:  # noqa: BLE001  # logged with its traceback
                _log.exception("open_streams_failed")
            with self._lock:
                if not self._open:
                    self._is_looking = False
                    return

    def _look(self) -> None:
        held = {token.digest: token for token in self._tokens()}
        with self._lock:
            grants = list(self._open.values())
        for grant in grants:
            failure = _fault(held.get(grant.digest), grant.permission)
            if failure is None:
                continue
            if grant.is_over:
                # It has not ended since the last time: its caller does not read.
                grant.call.cut(failure)
            else:
                grant.is_over = True
                self._count()
                grant.call.resume(grant.call.fail, failure)


def _fault(token: Token | None, permission: Permission) -> Failure | None:
    """Returns why a stream may not go on; None where it may."""
    if token is None:
        return _TAKEN_BACK
    return None if permission in token.permissions else refusal(token, permission).failure
