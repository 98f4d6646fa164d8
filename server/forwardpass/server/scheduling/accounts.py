"""What the calls of a token hold at a time, whichever connections they come by.

An account is kept for each name of a token. Its own bounds come before those of the server, which
`admission` keeps; and the server's places are shared out among accounts (`places`).
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.numbers import Count
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.wire import Reason

_MORE = "or ask the operator for more"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that the calls of an account hold at a time; None where only the server's bounds do.

    Attributes:
        calls: Calls that run models, and requests of streams; and as many streams that are open.
        bytes: Bytes of their requests, and of what these become.
    """

    calls: int | None = None
    bytes: int | None = None


UNLIMITED = Quota()


class Account:
    """What the calls of one name hold.

    Attributes:
        name: The name of its tokens.
        quota: The most that it may hold.

    Args:
        name: See above.
        quota: See above.
        refused: Counts what is refused, by the bound: "calls", "bytes", "streams".
    """

    __slots__ = (
        "_bytes",
        "_calls",
        "_lock",
        "_refused",
        "_streams",
        "_waiting",
        "name",
        "quota",
    )

    def __init__(self, name: str, quota: Quota, refused: Mapping[str, Count]) -> None:
        self.name = name
        self.quota = quota
        self._refused = refused
        self._lock = threading.Lock()
        self._calls = self._bytes = self._streams = 0
        # Streams that wait for room, and what tells them that there is some.
        self._waiting: dict[Hashable, Callable[[], None]] = {}

    def __str__(self) -> str:
        return f"the token {self.name!r}"

    @property
    def is_used(self) -> bool:
        """Whether any call of it is under way."""
        return bool(self._calls or self._streams)

    def has_room(self) -> bool:
        """Whether it may have one call more, of at least a byte."""
        return self._bound_reached() is None

    def enter_call(self) -> None:
        """Takes a call in, before its message is received; `leave_call` must follow.

        Raises:
            CallError: QUEUE_FULL: it has as many as it may have, or as many bytes.
        """
        with self._lock:
            bound = self._bound_reached()
            if bound == "calls":
                raise self._refuse(
                    bound,
                    f"{self} has {self._calls} calls in flight, as many as it may have (its "
                    f"max_in_flight); try again in {RETRY_AFTER} s, have fewer at a time, {_MORE}",
                )
            if bound == "bytes":
                raise self._refuse(
                    bound,
                    f"the calls of {self} hold {self._bytes} bytes, as many as they may hold (its "
                    f"max_in_flight_bytes); try again in {RETRY_AFTER} s, {_MORE}",
                )
            self._calls += 1

    def leave_call(self) -> None:
        """Lets a call out."""
        self._release(calls=1)

    def enter_stream(self) -> None:
        """Takes a stream in, which has no request yet; `leave_stream` must follow.

        Raises:
            CallError: QUEUE_FULL: it has as many as it may have.
        """
        with self._lock:
            most = self.quota.calls
            if most is not None and self._streams >= most:
                raise self._refuse(
                    "streams",
                    f"{self} has {self._streams} streams open, as many as it may have (its "
                    f"max_in_flight); try again in {RETRY_AFTER} s, end one of them, {_MORE}",
                )
            self._streams += 1

    def leave_stream(self, stream: Hashable) -> None:
        """Lets a stream out."""
        with self._lock:
            self._streams -= 1
            self._waiting.pop(stream, None)

    def enter_from_stream(self, size: int) -> None:
        """Takes a request of a stream in, which was asked for when there was room.

        `leave_from_stream` must follow, whether or not it raises.

        Raises:
            CallError: QUEUE_FULL: its bytes are more than there may ever be.
        """
        with self._lock:
            self._calls += 1
            self._bytes += size
            most = self.quota.bytes
            if most is not None and size > most:
                raise self._refuse_for_good(size, most)

    def leave_from_stream(self, size: int) -> None:
        """Lets a request of a stream out, with the bytes that it holds."""
        self._release(calls=1, size=size)

    def take(self, size: int, whole: int) -> None:
        """Counts bytes more of a call that is in; `give_back` must follow.

        Args:
            size: How many.
            whole: How many the call then has.

        Raises:
            CallError: QUEUE_FULL: it would have more than it may have.
        """
        with self._lock:
            most = self.quota.bytes
            if most is not None and self._bytes + size > most:
                if whole > most:
                    raise self._refuse_for_good(whole, most)
                raise self._refuse(
                    "bytes",
                    f"the calls of {self} hold {self._bytes} bytes, and {size} more would exceed "
                    f"the {most} that they may hold (its max_in_flight_bytes); try again in "
                    f"{RETRY_AFTER} s, {_MORE}",
                )
            self._bytes += size

    def give_back(self, size: int) -> None:
        """Counts bytes as given back."""
        self._release(size=size)

    def wait(self, stream: Hashable, again: Callable[[], None]) -> bool:
        """Has `again` called, on any thread, once there is room; False where there is already."""
        with self._lock:
            if self._bound_reached() is None:
                return False
            self._waiting[stream] = again
            return True

    def _release(self, calls: int = 0, size: int = 0) -> None:
        waiting: Mapping[Hashable, Callable[[], None]] = {}
        with self._lock:
            self._calls -= calls
            self._bytes -= size
            # All of them: whichever is told may have nothing to send.
            if self._waiting and self._bound_reached() is None:
                waiting, self._waiting = self._waiting, {}
        for again in waiting.values():
            again()

    def _bound_reached(self) -> str | None:
        """Returns which bound keeps another call out; None where it may come in."""
        quota = self.quota
        if quota.calls is not None and self._calls >= quota.calls:
            return "calls"
        if quota.bytes is not None and self._bytes >= quota.bytes:
            return "bytes"
        return None

    def _refuse_for_good(self, size: int, most: int) -> CallError:
        return self._refuse(
            "bytes",
            f"the request takes {size} bytes, but the calls of {self} may hold {most} bytes "
            f"together (its max_in_flight_bytes); send less in a request, {_MORE}",
            retry_after=None,
        )

    def _refuse(
        self, bound: str, message: str, retry_after: float | None = RETRY_AFTER
    ) -> CallError:
        self._refused[bound].add()
        return CallError(
            Reason.QUEUE_FULL, message, retry_after=retry_after, facts={"token": self.name}
        )


class Accounts:
    """The accounts of all names.

    Attributes:
        refused: How many calls were refused, by the bound.
    """

    def __init__(self) -> None:
        self.refused: Mapping[str, Count] = {
            bound: Count() for bound in ("calls", "bytes", "streams")
        }
        self._by_name: dict[str, Account] = {}

    def update(self, quotas: Mapping[str, Quota]) -> Mapping[str, Account]:
        """Returns an account for each name, with its quota. One thread at a time may ask for that.

        Of other names those are kept that have calls under way, as such a name may come back before
        its calls have ended.
        """
        accounts = {name: account for name, account in self._by_name.items() if account.is_used}
        for name, quota in quotas.items():
            account = self._by_name.get(name) or Account(name, quota, self.refused)
            account.quota = quota
            accounts[name] = account
        self._by_name = accounts
        return accounts
