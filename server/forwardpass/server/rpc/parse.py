"""Bytes to messages, with an error that teaches."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.errors import InvalidInput

M = TypeVar("M", bound=Message)


def parse(kind: type[M], message: bytes) -> M:
    """Returns the message.

    Raises:
        InvalidInput: The bytes are no such message.
    """
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidInput(f"the bytes are no {kind.DESCRIPTOR.full_name}") from None
