"""Which calls are made again, and when.

gRPC's own retries would also repeat a call whose connection broke after the request had gone out. A
request that ends its server would then end the next one, and so on. So a call is made again only
where a server refused it and says when to come again (trailing metadata grpc-retry-pushback-ms),
where there was no connection, where it outlived the age of its connection, and where gRPC core
turned it away as CANCELLED while its server shut down. A request that a server has not begun to
read when it closes a connection is sent again by gRPC itself.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from forwardpass.client.errors import UNSENT, Cancelled, TimedOut
from forwardpass.wire import PUSHBACK_KEY

Result = TypeVar("Result")
# Of calls that are turned away for another reason than that a server starts or stops.
MAX_TRIES = 4
_REFUSED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
# What a server says as it closes a connection of this age, with calls that outlast its grace.
_AGED = "max connection age"
# Of a call that core turned away; what its own side cancels has other words.
_TURNED_AWAY = "CANCELLED"
# Seconds before a second try where no server names them; random by a fifth.
_FIRST_WAIT, _JITTER = 0.1, 0.2
# The waits for one reason double so often.
_DOUBLINGS = 3
# Each failure takes a token and each success gives back a tenth: below half of them nothing is made
# again, so that retries cannot keep a struggling server down.
_TOKENS, _TOKENS_OF_SUCCESS = 100.0, 0.1


class Retries:
    """Makes the calls of one client, again where that may help. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = _TOKENS
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends every wait for another try: its call ends as `Cancelled`."""
        self._closed.set()

    def call(self, make: Callable[[float], Result], seconds: float) -> Result:
        """Returns what a call gives.

        Args:
            make: Makes the call, given the seconds that it may take.
            seconds: How long all tries may take together.

        Raises:
            grpc.RpcError: The last try's.
            TimedOut: The time was over between two tries.
            Cancelled: The client was closed between two tries.
        """
        deadline = time.monotonic() + seconds
        left = seconds
        tries = sent_on = 0
        while True:
            try:
                result = make(left)
            except grpc.RpcError as error:
                pushback = _pushback(error)
                code = _as_call(error).code()
                if pushback is not None and code is grpc.StatusCode.UNAVAILABLE:
                    # It starts or stops, and so may the next that the call is sent to: no end but
                    # the deadline, and no sign of trouble.
                    wait: float | None = pushback * (1 << min(sent_on, _DOUBLINGS))
                    sent_on += 1
                else:
                    tries += 1
                    wait = self._wait_after(error, tries, pushback)
                if wait is None:
                    raise
                words = _words(error)
            else:
                self._count(_TOKENS_OF_SUCCESS)
                return result
            if self._closed.wait(min(wait, max(0.0, deadline - time.monotonic()))):
                raise Cancelled("the client was closed")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(f"no other try within {seconds:g} s: {words}")

    def _wait_after(self, error: grpc.RpcError, tries: int, pushback: float | None) -> float | None:
        """Returns how many seconds to wait before the next try; None for no more tries."""
        if pushback is None and not _was_not_begun(error):
            return None
        if not self._count(-1) or tries == MAX_TRIES:
            return None
        if pushback is None:
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
            return _FIRST_WAIT * (1 << tries - 1) * jitter
        return pushback

    def _count(self, tokens: float) -> bool:
        """Adds tokens, and returns whether there are enough for another try."""
        with self._lock:
            self._tokens = min(_TOKENS, max(0.0, self._tokens + tokens))
            return self._tokens > _TOKENS / 2


def _pushback(error: grpc.RpcError) -> float | None:
    """Returns after how many seconds the server says to come again; None where it does not."""
    call = _as_call(error)
    if call.code() not in _REFUSED:
        return None
    value = dict(call.trailing_metadata() or ()).get(PUSHBACK_KEY, "")
    # -1 is never, as is anything else that is no number of milliseconds.
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return int(text) / 1000 if re.fullmatch("[0-9]{1,9}", text) else None


def _was_not_begun(error: grpc.RpcError) -> bool:
    """Returns whether no server has taken a call that ended without a pushback."""
    call = _as_call(error)
    if PUSHBACK_KEY in dict(call.trailing_metadata() or ()):
        return False
    if call.code() is grpc.StatusCode.CANCELLED:
        return _words(error) == _TURNED_AWAY
    return call.code() in _REFUSED and _words(error).startswith((*UNSENT, _AGED))


def _as_call(error: grpc.RpcError) -> grpc.Call:
    # What a blocking call raises is always its own call object as well.
    assert isinstance(error, grpc.Call)
    return error


def _words(error: grpc.RpcError) -> str:
    return _as_call(error).details() or "no details"
