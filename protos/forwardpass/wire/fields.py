"""Protobuf's wire format, as far as wrapping finished bytes in a message takes."""


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


def tag_and_length(number: int, size: int) -> bytes:
    """Returns what stands before the `size` bytes of such a field."""
    return varint(number << 3 | 2) + varint(size)
