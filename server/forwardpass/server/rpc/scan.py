"""Looks over a message before it is parsed: how many fields it has, and how long they are.

Parsing makes many small objects of few bytes, up to 44 times as many bytes as were sent, so a
message within the transport's limit may still take gigabytes. The scan walks the outermost fields
only, jumps over what they contain, and looks into those that are long. Bytes that stay bytes, such
as the elements of a tensor, cost nothing to parse and may be of any length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from forwardpass.server.errors import InvalidInput
from forwardpass.wire.fields import BYTES, read_value, read_varint

# The most bytes of a message that are not payload.
MAX_BYTES = 4 << 20
# Fields up to so many bytes are not looked into: what they hold cannot grow to much.
_SMALL = 1024

# A payload field: where its tag begins, where its bytes begin, and where they end.
Span: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """What a message may have of a field that holds text, bytes or messages.

    Attributes:
        name: What an error calls it.
        most: How often it may come.
        payload: Whether it holds bytes that stay bytes.
        inside: The layout of the message that it holds, looked into where that is long.
    """

    name: str
    most: int
    payload: bool = False
    inside: "Layout | None" = None


# What a layout does not list, such as a number or a name, comes once each.
_OTHER = Field("other fields", 256)


class Layout:
    """The fields of a message that are counted.

    Args:
        fields: By field number; all others are counted together.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.fields = {number << 3 | BYTES: field for number, field in fields.items()}


def scan(
    message: bytes | memoryview, layout: Layout, name: str = "protobuf message of this method"
) -> list[Span]:
    """Returns where the message's own payload fields are, in order.

    Payload inside its fields is not returned, but not counted as other bytes either.

    Args:
        message: The bytes.
        layout: What the message may have.
        name: What an error calls it.

    Raises:
        InvalidInput: A field comes too often, there are more than 4 MiB beside the payload, or the
            bytes are no message at all.
    """
    spans: list[Span] = []
    try:
        payload = _walk(message, 0, len(message), layout, spans)
    except (LookupError, ValueError):
        raise InvalidInput(f"the bytes are no {name}") from None
    if len(message) - payload > MAX_BYTES:
        raise InvalidInput(
            f"{len(message) - payload} bytes beside the elements of tensors, images and texts, but "
            f"a message may have {MAX_BYTES}; send elements as raw bytes",
            expected=MAX_BYTES,
            got=len(message) - payload,
        )
    return spans


def without(message: bytes | memoryview, spans: Sequence[Span]) -> bytes:
    """Returns the message without its payload fields, which are then never copied by a parser."""
    if not spans:
        return bytes(message)
    parts = []
    at = 0
    for begin, _, end in spans:
        parts.append(message[at:begin])
        at = end
    parts.append(message[at:])
    return b"".join(parts)


def _walk(
    message: bytes | memoryview, at: int, end: int, layout: Layout, spans: list[Span] | None
) -> int:
    """Walks the fields of one message and returns how many bytes of payload it has."""
    fields = layout.fields
    counts: dict[str, int] = {}
    payload = 0
    while at < end:
        begin = at
        tag = message[at]
        at += 1
        if tag > 127:
            tag, at = read_varint(message, begin)
        field = fields.get(tag, _OTHER)
        count = counts[field.name] = counts.get(field.name, 0) + 1
        if count > field.most:
            raise InvalidInput(
                f"more than {field.most} {field.name}, the most of a request",
                field=field.name,
                expected=field.most,
                got=count,
            )
        if field is _OTHER:
            at = read_value(message, at, tag & 7)[1]
        else:
            size = message[at]
            at += 1
            if size > 127:
                size, at = read_varint(message, at - 1)
            body = at
            at += size
            if field.payload:
                payload += size
                if spans is not None:
                    spans.append((begin, body, at))
            elif size > _SMALL and field.inside is not None and at <= end:
                payload += _walk(message, body, at, field.inside, None)
        if at > end:
            raise ValueError("a field ends behind its message")
    return payload
