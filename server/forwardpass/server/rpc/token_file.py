"""The management tokens of a file, which is read again when it changes."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from forwardpass.server.process.plain_file import (
    PlainFileError,
    Stamp,
    read_plain_file,
    stamp_of,
)

_MAX_BYTES = 4_096
# Two, so that callers can change from one to the other while both hold.
_MAX_TOKENS = 2
# What is shorter is a token that was cut off, or can be guessed.
_MIN_LENGTH = 8
# How long a token may hold that is no longer in the file, in seconds.
_LOOK_SECONDS = 1.0
_log = structlog.get_logger()


class TokenFileError(ValueError):
    """A file that has no tokens for us; the message says why, and nothing of what is in it."""


class TokenFile:
    """The tokens of a file, one a line, at most two.

    The file is looked at when tokens are asked for, at most once a second, and read where it has
    changed. The path is followed anew each time, as Kubernetes changes a mounted Secret by a link
    on the way to it. A file that has become unusable leaves the tokens as they were.

    Args:
        path: The file.

    Raises:
        TokenFileError: There is no such file, or it has no tokens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        self._stamp, self._tokens = _read(path)
        # Why the file cannot be used now; None where it can.
        self._fault: str | None = None

    def tokens(self) -> Sequence[bytes]:
        """Returns the tokens that hold now."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = now
                self._look()
            return self._tokens

    def _look(self) -> None:
        if self._fault is None and stamp_of(self._path) == self._stamp:
            return
        try:
            self._stamp, tokens = _read(self._path)
        except TokenFileError as error:
            self._complain(str(error))
        else:
            if tokens != self._tokens:
                _log.info("management_tokens", path=str(self._path), tokens=len(tokens))
            self._tokens, self._fault = tokens, None

    def _complain(self, fault: str) -> None:
        """Says once why the file cannot be used."""
        if fault != self._fault:
            self._fault = fault
            _log.warning("management_tokens_kept", reason=fault, tokens=len(self._tokens))


def _read(path: Path) -> tuple[Stamp, Sequence[bytes]]:
    """Returns the stamp of a file and its tokens.

    Raises:
        TokenFileError: There is no such file, or it has no tokens.
    """
    try:
        stamp, content = read_plain_file(path, _MAX_BYTES)
    except PlainFileError as error:
        raise TokenFileError(str(error)) from None
    return stamp, _parse(path, content)


def _parse(path: Path, content: bytes) -> Sequence[bytes]:
    tokens = [token for line in content.splitlines() if (token := line.strip())]
    if not tokens:
        raise TokenFileError(f"{path} is empty; a token is needed, or two, one a line")
    if len(tokens) > _MAX_TOKENS:
        raise TokenFileError(f"{path} has {len(tokens)} tokens; at most {_MAX_TOKENS} are taken")
    for token in tokens:
        # No caller can send another one: it travels in a header.
        if not all(ord("!") <= byte <= ord("~") for byte in token):
            raise TokenFileError(f"{path} has a token with characters other than visible ASCII")
        if len(token) < _MIN_LENGTH:
            raise TokenFileError(f"{path} has a token of less than {_MIN_LENGTH} characters")
    return tokens
