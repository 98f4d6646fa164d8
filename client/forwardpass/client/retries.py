"""Which calls are made again, and when.

gRPC's own retries would also repeat a call whose connection broke after the request had gone out. A
request that ends its server would then end the next one, and so on. So a call is made again only
where a server refused it and says when to come again (trailing metadata grpc-retry-pushback-ms),
where there was no connection, and where it outlived the age of its connection. A request that a
server has not begun to read when it closes a connection is sent again by gRPC itself.
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
MAX_TRIES = 4
_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
# What a server says as it closes a connection of this age, with calls that outlast its grace.
_AGED = "max connection age"
# Seconds before a second try without a connection; they double, and are random by a fifth.
_FIRST_WAIT, _JITTER = 0.1, 0.2
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
        for tries in range(1, MAX_TRIES + 1):
            try:
                result = make(left)
            except grpc.RpcError as error:
                wait = self._wait_after(error, tries)
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
        raise AssertionError("the last try returns or raises")

    def _wait_after(self, error: grpc.RpcError, tries: int) -> float | None:
        """Returns how many seconds to wait before the next try; None for no more tries."""
        # What a blocking call raises is always its own call object as well.
        assert isinstance(error, grpc.Call)
        if error.code() not in _CODES:
            return None
        pushback = dict(error.trailing_metadata() or ()).get(PUSHBACK_KEY)
        if pushback is None and not _words(error).startswith((*UNSENT, _AGED)):
            return None
        if not self._count(-1) or tries == MAX_TRIES:
            return None
        if pushback is None:
            jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
            return _FIRST_WAIT * 2 ** (tries - 1) * jitter
        # -1 is never, as is anything else that is no number of milliseconds.
        text = pushback.decode("ascii", "replace") if isinstance(pushback, bytes) else pushback
        return int(text) / 1000 if re.fullmatch("[0-9]{1,9}", text) else None

    def _count(self, tokens: float) -> bool:
        """Adds tokens, and returns whether there are enough for another try."""
        with self._lock:
            self._tokens = min(_TOKENS, max(0.0, self._tokens + tokens))
            return self._tokens > _TOKENS / 2


def _words(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return error.details() or "no details"
