"""RFC 822 and MIME, as the standard library reads them, to plain text."""

import email
import html
import re
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message

# What a reader of HTML does not see: comments, scripts and styles with their contents, and tags.
_UNSEEN = re.compile(
    r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|<[a-z/!?][^>]*>", re.DOTALL | re.IGNORECASE
)
# Tags that end a line of text; all others may stand within a word.
_BREAK = re.compile(r"<(br|/?(p|div|tr|td|th|li|table|h[1-6]|hr|title))\b[^>]*>", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\s*\n\s*\n\s*")


def read_mail(data: bytes) -> str:
    """Returns an e-mail's subject, an empty line, and the text of its body.

    All parts of plain text and of HTML are taken, in order, the latter without tags, scripts and
    styles. Other headers, attachments and images are left out. No input is refused: what is not as
    the standards want it is read as far as it goes.

    Args:
        data: A message as it travels or lies in a file (RFC 822, MIME).
    """
    message = email.message_from_bytes(data)
    parts = [_subject(message), *(_text(part) for part in message.walk())]
    return _BLANK_LINES.sub("\n\n", "\n\n".join(part.strip() for part in parts if part)).strip()


def _subject(message: Message) -> str:
    given = str(message.get("Subject", ""))
    # What cannot be decoded stays as it was written.
    with suppress(HeaderParseError, LookupError, ValueError):
        given = str(make_header(decode_header(given)))
    return _storable(" ".join(given.split()))


def _text(part: Message) -> str:
    kind = part.get_content_type()
    if part.is_multipart() or kind not in ("text/plain", "text/html"):
        return ""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)  # as of every part that is not of several
    text = _decode(content, part.get_content_charset())
    if kind == "text/html":
        text = html.unescape(_UNSEEN.sub("", _BREAK.sub("\n", text)))
    return _storable(text)


def _decode(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8", "replace" if charset else "strict")
    except (LookupError, ValueError):
        return content.decode("latin-1")  # which reads any bytes


def _storable(text: str) -> str:
    """Returns the text with "?" for halves of surrogate pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
