"""In which order messages are asked for that there is no room for at once.

Connections take turns, so that many messages of one let no other wait for more than one of them.
One that is longer than others keeps all of them waiting, however: those connections come last that
have sent such a message, but for a turn now and then.
"""

from collections import deque
from typing import Generic, Protocol, TypeVar

# After so many turns of the others, connections with long messages have one.
_SHORT_TURNS = 16
# Of so many connections it is known that they have sent a long message: those that did last.
_MOST_KNOWN = 1024


class Waiting(Protocol):
    """A message that waits for its turn."""

    @property
    def peer(self) -> str:
        """The connection's other end."""


W = TypeVar("W", bound=Waiting)


class Turns(Generic[W]):
    """Messages that wait, by connection. One thread at a time may use it.

    Attributes:
        count: How many wait.
    """

    def __init__(self) -> None:
        self.count = 0
        # A connection is in one of them.
        self._short: dict[str, deque[W]] = {}
        self._long: dict[str, deque[W]] = {}
        self._short_turns = 0
        # Connections that sent a long message, the latest last.
        self._known_long: dict[str, None] = {}

    @property
    def has_long(self) -> bool:
        """Whether one of them is of a connection that has sent a long message."""
        return bool(self._long)

    def has(self, peer: str) -> bool:
        """Whether a message of this connection waits."""
        return peer in self._short or peer in self._long

    def add(self, message: W) -> None:
        """Has a message wait."""
        peer = message.peer
        is_long = peer in self._long or (peer in self._known_long and peer not in self._short)
        (self._long if is_long else self._short).setdefault(peer, deque()).append(message)
        self.count += 1

    def pop(self) -> W:
        """Returns the message whose turn it is; some must wait."""
        if self._short and (self._short_turns < _SHORT_TURNS or not self._long):
            self._short_turns += 1
            return self._pop(self._short)
        self._short_turns = 0
        return self._pop(self._long)

    def pop_short(self) -> W | None:
        """Returns the next message of a connection that is not known to send long ones, if any."""
        return self._pop(self._short) if self._short else None

    def may_be_long(self, message: W) -> bool:
        """Whether a message is of a connection that has sent a long one."""
        return bool(self._known_long) and message.peer in self._known_long

    def _pop(self, lines: dict[str, deque[W]]) -> W:
        peer = next(iter(lines))
        line = lines.pop(peer)
        message = line.popleft()
        if line:
            # It is the turn of all others first.
            lines[peer] = line
        self.count -= 1
        return message

    def sent_long(self, peer: str) -> None:
        """Says that a connection has sent a long message."""
        self._known_long.pop(peer, None)
        self._known_long[peer] = None
        if len(self._known_long) > _MOST_KNOWN:
            del self._known_long[next(iter(self._known_long))]
        line = self._short.pop(peer, None)
        if line is not None:
            self._long[peer] = line
