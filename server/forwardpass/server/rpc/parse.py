"""Bytes to messages, with an error that teaches."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.errors import InvalidInput
from forwardpass.server.rpc.layouts import LAYOUTS, PLAIN
from forwardpass.server.rpc.scan import scan

M = TypeVar("M", bound=Message)
# Shorter messages are parsed as they are: what they can grow to is little.
SCANNED_FROM = 64 << 10


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
