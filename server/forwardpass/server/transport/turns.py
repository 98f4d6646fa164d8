"""In which order messages are asked for that there is no room for at once.

Each belongs to an account: that of its token, where calls carry tokens, else its connection's.
Accounts take turns, so that many messages of one let no other wait for more than one of them.
One that is longer than others keeps all of them waiting, however: those accounts come last that
have sent such a message, but for a turn now and then.
"""

import time
from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

# After so many turns of the others, accounts with long messages have one.
_SHORT_TURNS = 16
# Of so many accounts it is known that they have sent a long message: those that did last.
_MOST_KNOWN = 1024
# And for so many seconds. A connection is rarely older, but a token's account is as old as we are.
_KNOWN_SECONDS = 300.0


class Waiting(Protocol):
    """A message that waits for its turn."""

    @property
    def account(self) -> Hashable:
        """Whose it is."""


W = TypeVar("W", bound=Waiting)


class Turns(Generic[W]):
    """Messages that wait, by account. One thread at a time may use it.

    Attributes:
        count: How many wait.
    """

    def __init__(self) -> None:
        self.count = 0
        # An account is in one of them.
        self._short: dict[Hashable, deque[W]] = {}
        self._long: dict[Hashable, deque[W]] = {}
        self._short_turns = 0
        # Accounts that sent a long message, the latest last, with when that was.
        self._known_long: dict[Hashable, float] = {}

    @property
    def has_long(self) -> bool:
        """Whether one of them is of an account that has sent a long message."""
        return bool(self._long)

    def has(self, account: Hashable) -> bool:
        """Whether a message of this account waits."""
        return account in self._short or account in self._long

    def add(self, message: W) -> None:
        """Has a message wait."""
        account = message.account
        is_long = account in self._long or (
            account not in self._short and self._is_known_long(account)
        )
        (self._long if is_long else self._short).setdefault(account, deque()).append(message)
        self.count += 1

    def pop(self) -> W:
        """Returns the message whose turn it is; some must wait."""
        if self._short and (self._short_turns < _SHORT_TURNS or not self._long):
            self._short_turns += 1
            return self._pop(self._short)
        self._short_turns = 0
        return self._pop(self._long)

    def pop_short(self) -> W | None:
        """Returns the next message of an account that is not known to send long ones, if any."""
        return self._pop(self._short) if self._short else None

    def may_be_long(self, message: W) -> bool:
        """Whether a message is of an account that has sent a long one."""
        return bool(self._known_long) and self._is_known_long(message.account)

    def _is_known_long(self, account: Hashable) -> bool:
        since = self._known_long.get(account)
        return since is not None and time.perf_counter() - since < _KNOWN_SECONDS

    def _pop(self, lines: dict[Hashable, deque[W]]) -> W:
        account = next(iter(lines))
        line = lines.pop(account)
        message = line.popleft()
        if line:
            # It is the turn of all others first.
            lines[account] = line
        self.count -= 1
        return message

    def sent_long(self, account: Hashable) -> None:
        """Says that an account has sent a long message."""
        self._known_long.pop(account, None)
        self._known_long[account] = time.perf_counter()
        if len(self._known_long) > _MOST_KNOWN:
            del self._known_long[next(iter(self._known_long))]
        line = self._short.pop(account, None)
        if line is not None:
            self._long[account] = line
