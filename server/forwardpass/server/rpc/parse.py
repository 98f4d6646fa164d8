"""Bytes to messages, with an error that teaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.errors import InvalidInput
from forwardpass.server.native.schema import LAYOUTS, PLAIN
from forwardpass.server.rpc.scan import scan
from forwardpass.wire.fields import take_out

M = TypeVar("M", bound=Message)
# Shorter messages are parsed as they are: what they can grow to is little.
SCANNED_FROM = 64 << 10
# To copy fewer bytes takes less time than to find them.
LONG = 1 << 19


def parse(kind: type[M], message: bytes) -> M:
    """Returns the message.

    Raises:
        InvalidInput: The bytes are no such message, or it has more parts than one may have.
    """
    if len(message) >= SCANNED_FROM:
        scan(message, LAYOUTS.get(kind, PLAIN), kind.DESCRIPTOR.full_name)
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidInput(f"the bytes are no {kind.DESCRIPTOR.full_name}") from None


@dataclass(frozen=True, slots=True)
class Hollow(Generic[M]):
    """A message without its longest part.

    Attributes:
        message: The message.
        content: The bytes that the field at the path would have; None where the message is whole.
        begin: Where these begin in what was parsed.
    """

    message: M
    content: memoryview | None = None
    begin: int = 0


def parse_hollow(kind: type[M], message: bytes, path: Sequence[int]) -> Hollow[M]:
    """Returns the message; where it is long, without the one field at the path, which may be.

    Raises:
        InvalidInput: The bytes are no such message.
    """
    taken = take_out(memoryview(message), path) if len(message) >= LONG else None
    if taken is None:
        return Hollow(parse(kind, message))
    rest, begin, end = taken
    return Hollow(parse(kind, rest), memoryview(message)[begin:end], begin)
