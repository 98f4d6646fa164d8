"""What a client is told once: whom to call, how, and within what limits."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from forwardpass.client.channel import Tls, check_target
from forwardpass.client.errors import InvalidSetting

DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MESSAGE_BYTES = 64 << 20
# Sent with a call, by name. A name that ends in "-bin" has bytes.
Metadata: TypeAlias = Mapping[str, str | bytes]
Pairs: TypeAlias = tuple[tuple[str, str | bytes], ...]

_KEY = re.compile(r"[0-9a-z_.-]+")
# Names that gRPC, or the client itself, uses.
_TAKEN = re.compile(r"grpc-.*|authorization|content-type|te|user-agent|:.*")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a client, checked. They are what a pickle of it holds.

    Attributes:
        targets: The servers, as gRPC names them, called in turn.
        timeout: Seconds that a call may take which says nothing else.
        tls: How connections are secured; None sends in the clear.
        token: The bearer token, if any.
        metadata: Sent with every call.
        connections: Connections to each target.
        max_message_bytes: The largest request to send and answer to take.
        patience: Seconds that a call is tried again in, at most, while there is no connection; long
            enough for a server that is started again.
    """

    targets: tuple[str, ...]
    timeout: float = DEFAULT_TIMEOUT
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    metadata: Pairs = field(default=(), repr=False)
    connections: int = 1
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES
    patience: float = 10.5

    def __post_init__(self) -> None:
        if not self.targets:
            raise InvalidSetting("there is no target: name at least one server")
        for target in self.targets:
            check_target(target)
        checked_timeout(self.timeout)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            # gRPC would refuse it at each call, in an error that shows it.
            raise InvalidSetting("a token is printable ASCII: does it end in a line break?")
        if self.connections < 1:
            raise InvalidSetting(f"connections is at least 1, got {self.connections}")
        if self.max_message_bytes < 1:
            raise InvalidSetting(f"max_message_bytes is at least 1, got {self.max_message_bytes}")

    @property
    def name(self) -> str:
        """What to call the servers in a message."""
        return ", ".join(self.targets)

    @property
    def headers(self) -> Pairs:
        """What is sent with every call."""
        token = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return (*token, *self.metadata)


def as_targets(given: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the targets, of which a string is one."""
    return (given,) if isinstance(given, str) else tuple(given)


def checked_timeout(seconds: float) -> float:
    """Returns the timeout as it is.

    Raises:
        InvalidSetting: It is not a positive, finite number.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidSetting(f"a timeout is a positive, finite number of seconds, got {seconds}")
    return seconds


def to_pairs(metadata: Metadata | None) -> Pairs:
    """Returns metadata as gRPC takes it.

    Raises:
        InvalidSetting: A name or a value cannot be sent.
    """
    if not metadata:
        return ()
    for key, value in metadata.items():
        if not _KEY.fullmatch(key) or _TAKEN.fullmatch(key):
            raise InvalidSetting(
                f"metadata {key!r}: a name has lower-case letters, digits, '_', '-' and '.', and "
                "is none of gRPC's own; a token is given as `token`"
            )
        if isinstance(value, bytes) != key.endswith("-bin"):
            raise InvalidSetting(f"metadata {key!r}: names ending in '-bin' have bytes, others str")
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise InvalidSetting(f"metadata {key!r}: a value is printable ASCII")
    return tuple(metadata.items())
