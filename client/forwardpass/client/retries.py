"""Which calls are made again, and when.

gRPC's own retries would also repeat a call whose connection broke after the request had gone out. A
request that ends its server would then end the next one, and so on. So a call is made again only
where a server refused it and says when to come again (trailing metadata grpc-retry-pushback-ms),
where there was no connection, where it outlived the age of its connection, where its stream was
refused, and where gRPC core turned it away as CANCELLED while its server shut down. A request that
a server has not begun to read when it closes a connection is sent again by gRPC itself.
"""

import logging
import random
import re
import threading
import time
from typing import Any, cast

import grpc

from forwardpass.client.errors import HOPELESS, REFUSED_STREAM, UNSENT, Status, TimedOut
from forwardpass.client.settings import Settings
from forwardpass.client.steps import Call, Flow, Pause
from forwardpass.wire import PUSHBACK_KEY

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
# Without a connection the waits are 1, 4 and 16 parts of the client's patience, or of this share of
# a call's time.
_SHARE, _GROWTH, _WAITS = 0.7, 4, 1 + 4 + 16
# Each failure takes a token and each success gives back a tenth: below half of them nothing is made
# again, so that retries cannot keep a struggling server down.
_TOKENS, _TOKENS_OF_SUCCESS = 100.0, 0.1
_log = logging.getLogger("forwardpass.client")


class Retries:
    """Makes the calls of one client, again where that may help. Any thread may use it.

    Attributes:
        settings: The client's.
        spares: Connections other than the one that a call is given first.

    Args:
        settings: The client's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spares = len(settings.targets) * settings.connections - 1
        self._lock = threading.Lock()
        self._tokens = _TOKENS

    def note_success(self) -> None:
        """Gives back a part of a token."""
        if self._tokens < _TOKENS:
            self.count(_TOKENS_OF_SUCCESS)

    def again(self, call: Call, error: grpc.RpcError) -> Flow[Any]:
        """Makes a call that has failed again, where that may help, and returns the response.

        Args:
            call: What to do; its seconds are how long all tries may take together from now on.
            error: How it failed.

        Raises:
            grpc.RpcError: The last try's.
            TimedOut: The time was over between two tries.
            Cancelled: The client was closed between two tries.
        """
        seconds = call.seconds
        deadline = call.began + seconds
        attempt = Attempt(self, seconds)
        while True:
            wait = attempt.wait_after(error)
            if wait is None:
                raise error
            if wait:
                yield Pause(min(wait, max(0.0, deadline - time.monotonic())))
            call.seconds = deadline - time.monotonic()
            if call.seconds <= 0:
                raise TimedOut(f"no other try within {seconds:g} s: {words_of(error)}")
            try:
                response = yield call
            except grpc.RpcError as another:
                error = another
            else:
                self.note_success()
                return response

    def count(self, tokens: float) -> bool:
        """Adds tokens, and returns whether there are enough for another try."""
        with self._lock:
            self._tokens = min(_TOKENS, max(0.0, self._tokens + tokens))
            return self._tokens > _TOKENS / 2


class Attempt:
    """The tries of one call.

    Args:
        retries: The client's.
        seconds: How long all tries may take together.
    """

    def __init__(self, retries: Retries, seconds: float) -> None:
        self._retries = retries
        self._patience = min(retries.settings.patience, seconds * _SHARE)
        self._tries = self._sent_on = 0
        self._spares = retries.spares

    def wait_after(self, error: grpc.RpcError) -> float | None:
        """Returns how many seconds to wait before the next try; None for no more tries."""
        pushback = _pushback(error)
        if pushback is not None and status_of(error).code() is grpc.StatusCode.UNAVAILABLE:
            # It starts or stops, and so may the next that the call is sent to: no end but the
            # deadline, and no sign of trouble.
            self._sent_on += 1
            return pushback * (1 << min(self._sent_on - 1, _DOUBLINGS))
        if pushback is None and not _was_not_begun(error):
            return None
        if is_unsent(error) and self._spares > 0:
            self._spares -= 1
            return 0.0
        self._spares = self._retries.spares
        self._tries += 1
        if not self._retries.count(-1) or self._tries == MAX_TRIES:
            return None
        return self._backoff(error) if pushback is None else pushback

    def _backoff(self, error: grpc.RpcError) -> float:
        """Returns how many seconds to wait where no server has named them."""
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
        if not is_unsent(error):
            return float(_FIRST_WAIT * (1 << self._tries - 1) * jitter)
        wait = self._patience * jitter * float(_GROWTH ** (self._tries - 1)) / _WAITS
        if self._tries == 1:
            cause = words_of(error).rpartition(": ")[2]
            name, patience = self._retries.settings.name, self._patience
            _log.warning("no connection to %s yet (%s): trying for %.1f s", name, cause, patience)
        return wait


def status_of(error: grpc.RpcError) -> Status:
    """Returns a failed call's status."""
    return cast("Status", error)


def words_of(error: grpc.RpcError) -> str:
    """Returns what gRPC says of a failed call."""
    return status_of(error).details() or "no details"


def is_unsent(error: grpc.RpcError) -> bool:
    """Returns whether there was no connection."""
    return status_of(error).code() in _REFUSED and words_of(error).startswith(UNSENT)


def _pushback(error: grpc.RpcError) -> float | None:
    """Returns after how many seconds the server says to come again; None where it does not."""
    status = status_of(error)
    if status.code() not in _REFUSED:
        return None
    value = dict(status.trailing_metadata() or ()).get(PUSHBACK_KEY, "")
    # -1 is never, as is anything else that is no number of milliseconds.
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return int(text) / 1000 if re.fullmatch("[0-9]{1,9}", text) else None


def _was_not_begun(error: grpc.RpcError) -> bool:
    """Returns whether no server has taken a call that ended without a pushback."""
    status = status_of(error)
    if PUSHBACK_KEY in dict(status.trailing_metadata() or ()):
        return False
    if status.code() is grpc.StatusCode.CANCELLED:
        return words_of(error) == _TURNED_AWAY
    words = words_of(error)
    if any(cause in words for cause in HOPELESS):
        return False
    if REFUSED_STREAM in words:
        return True
    return status.code() in _REFUSED and words.startswith((*UNSENT, _AGED))
