"""Protobuf's wire format, as far as wrapping bytes in a message, and walking over one, takes."""

from functools import lru_cache

BYTES = 2
_VARINT, _FIXED = 0, {1: 8, 5: 4}
_MAX_VARINT = 10


def varint(number: int) -> bytes:
    """Returns a number, at least 0, in groups of seven bits, lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def length_delimited(number: int, payload: bytes) -> bytes:
    """Returns a field of bytes, text or a submessage, with its tag and length before it.

    Serialised fields that follow one another are a message, so this wraps a message in another
    without parsing it or copying it twice.
    """
    return tag_and_length(number, len(payload)) + payload


@lru_cache(maxsize=256)
def tag_and_length(number: int, size: int) -> bytes:
    """Returns what stands before the `size` bytes of such a field.

    Most answers are as long as others, so that this is found out once.
    """
    return varint(number << 3 | 2) + varint(size)


def read_value(message: bytes | memoryview, at: int, kind: int) -> tuple[int, int]:
    """Returns where the value of a field begins, without its length, and where it ends.

    Args:
        message: The message.
        at: Behind the field's tag.
        kind: The wire type that the tag tells.

    Raises:
        LookupError: The message ends before, or the type is one that no message here has.
        ValueError: A length that is none.
    """
    if kind == BYTES:
        size, at = read_varint(message, at)
        return at, at + size
    if kind == _VARINT:
        return at, read_varint(message, at)[1]
    return at, at + _FIXED[kind]


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """Returns the number that begins there, and where it ends.

    Raises:
        LookupError: The message ends before.
        ValueError: It does not end within ten bytes.
    """
    number = 0
    for shift in range(0, 7 * _MAX_VARINT, 7):
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
