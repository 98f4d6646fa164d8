"""Bytes to requests: each message is looked over, detached from its elements, and parsed, once.

Parsing makes many small objects of few bytes, up to 44 times as many bytes as were sent, so a
message within the transport's limit may still take gigabytes. The scan walks the fields of a
message, jumps over what they contain, looks into those that are long, and refuses what has too many
of them. Bytes that stay bytes, such as the elements of a tensor, may be of any length; a parser
copies them, so it is given their number in their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from forwardpass.server.errors import InvalidInput
from forwardpass.server.rpc.schema import OTHER, Field, Layout, Schema
from forwardpass.wire.fields import read_value, read_varint, varint

M = TypeVar("M", bound=Message)
# The most bytes of a message that are not payload.
MAX_BYTES = 4 << 20
# Shorter fields are not looked into for what they count: it cannot grow to much.
_SMALL = 1024
# Shorter messages without payload are parsed as they are.
_SCANNED_FROM = 64 << 10
# Where bytes begin and end in a message.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a request has what is its own, and not the next one's as well.

    Attributes:
        id_begin: Where its id begins; where its elements do, if it has none.
        id_end: Where its id ends.
        begin: Where the elements of its one tensor begin.
        end: Where they end.
    """

    id_begin: int
    id_end: int
    begin: int
    end: int


@dataclass(slots=True, eq=False)
class Received(Generic[M]):
    """A request that has been parsed, but not compared with a model.

    Attributes:
        schema: What it is.
        message: Its bytes.
        head: The request; where elements are detached, tensors have their number instead.
        contents: Where the detached elements lie in the message, by their number; None where
            nothing is detached.
        ids: Where it has its id.
    """

    schema: Schema[M]
    message: bytes
    head: M
    contents: Sequence[Span] | None
    ids: Sequence[Span] = ()

    @property
    def content_bytes(self) -> int:
        """How many bytes of elements are detached."""
        return sum(end - begin for begin, end in self.contents or ())

    def span(self, placeholder: bytes) -> Span:
        """Returns where elements lie.

        Args:
            placeholder: What the head has in their place; empty where the tensor has none.
        """
        assert self.contents is not None
        return self.contents[placeholder[0]] if placeholder else (0, 0)

    def content(self, field: bytes) -> bytes | memoryview:
        """Returns elements, wherever they are.

        Args:
            field: What the head has as a tensor's content.
        """
        if self.contents is None:
            return field
        begin, end = self.span(field)
        return memoryview(self.message)[begin:end]

    def slots(self) -> Slots | None:
        """Returns where the request has its id and its elements.

        None where it has not one tensor with elements, or an id behind them, or several.
        """
        contents, ids = self.contents, self.ids
        if contents is None:
            try:
                contents, ids, _ = _scan(self.message, self.schema.layout)
            except (InvalidInput, LookupError, ValueError):
                # A short message may have what a long one may not, and is not remembered then.
                return None
        if len(contents) != 1 or len(ids) > 1:
            return None
        begin, end = contents[0]
        id_begin, id_end = ids[0] if ids else (begin, begin)
        return Slots(id_begin, id_end, begin, end) if id_end <= begin < end else None


def receive(schema: Schema[M], message: bytes) -> Received[M]:
    """Returns the request in a message.

    Raises:
        InvalidInput: The bytes are no such request, it has more parts than a request may have, or
            more than 4 MiB beside its payload.
    """
    if len(message) < schema.scanned_from:
        return Received(schema, message, _parse(schema.kind, message), None)
    try:
        contents, ids, rest = _scan(message, schema.layout)
    except (LookupError, ValueError):
        raise _wrong(schema.kind) from None
    return Received(schema, message, _parse(schema.kind, rest), contents, ids)


def parse(kind: type[M], message: bytes) -> M:
    """Returns a message that carries no payload.

    Raises:
        InvalidInput: The bytes are no such message, or it has more parts than one may have.
    """
    if len(message) >= _SCANNED_FROM:
        try:
            _scan(message, Layout(kind.DESCRIPTOR))
        except (LookupError, ValueError):
            raise _wrong(kind) from None
    return _parse(kind, message)


def _parse(kind: type[M], message: bytes) -> M:
    try:
        return kind.FromString(message)
    except DecodeError:
        raise _wrong(kind) from None


def _wrong(kind: type[Message]) -> InvalidInput:
    return InvalidInput(f"the bytes are no {kind.DESCRIPTOR.full_name}")


def _scan(message: bytes, layout: Layout) -> tuple[list[Span], list[Span], bytes]:
    """Returns where a message has its tensors' elements and its ids, and the message without them.

    Raises:
        InvalidInput: A field comes too often, or there are more than 4 MiB beside the payload.
        LookupError: The bytes are no message.
        ValueError: Likewise.
    """
    scan = _Scan(message)
    parts = scan.walk(0, len(message), layout)
    beside = len(message) - scan.payload
    if beside > MAX_BYTES:
        raise InvalidInput(
            f"{beside} bytes beside the elements of tensors, images and texts, but "
            f"a message may have {MAX_BYTES}; send elements as raw bytes",
            expected=MAX_BYTES,
            got=beside,
        )
    return scan.contents, scan.ids, b"".join(parts) if parts else message


class _Scan:
    """One walk over a message.

    Attributes:
        payload: How many bytes of payload it has had so far.
        contents: Where elements lie.
        ids: Where ids lie.

    Args:
        message: The message.
    """

    __slots__ = ("_message", "contents", "ids", "payload")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.payload = 0
        self.contents: list[Span] = []
        self.ids: list[Span] = []

    def walk(self, at: int, end: int, layout: Layout) -> list[bytes]:
        """Walks the fields between two places of the message.

        Returns:
            The parts of what stands there, with placeholders; none where nothing is replaced.
        """
        message, fields = self._message, layout.fields
        counts: dict[str, int] = {}
        parts: list[bytes] = []
        copied = at
        while at < end:
            tag, behind_tag = read_varint(message, at)
            field = fields.get(tag, OTHER)
            count = counts[field.name] = counts.get(field.name, 0) + 1
            if count > field.most:
                raise InvalidInput(
                    f"more than {field.most} {field.name}, the most of a request",
                    field=field.name,
                    expected=field.most,
                    got=count,
                )
            body, at = read_value(message, behind_tag, tag & 7)
            if at > end:
                raise ValueError("a field ends behind its message")
            if field is not OTHER and (instead := self._take(field, body, at)):
                parts += (message[copied:behind_tag], *instead)
                copied = at
        if parts:
            parts.append(message[copied:end])
        return parts

    def _take(self, field: Field, begin: int, end: int) -> Sequence[bytes]:
        """Takes note of a field.

        Args:
            field: Which.
            begin: Where its bytes begin.
            end: Where they end.

        Returns:
            What stands behind its tag instead; nothing where it stays as it is.
        """
        if field.is_payload:
            self.payload += end - begin
            if field.is_content:
                self.contents.append((begin, end))
                return (b"\1", bytes((len(self.contents) - 1,)))
        elif field.is_id:
            self.ids.append((begin, end))
        elif (inside := field.inside) and (end - begin > _SMALL or inside.has_content):
            parts = self.walk(begin, end, inside)
            if parts:
                return (varint(sum(map(len, parts))), *parts)
        return ()
