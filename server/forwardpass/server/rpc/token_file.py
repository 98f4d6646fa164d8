"""The tokens of a file, which is read again when it changes."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from forwardpass.server.process.plain_file import (
    PlainFileError,
    Stamp,
    read_plain_file,
    stamp_of,
)
from forwardpass.server.rpc.tokens import Permission, Token, digest_of, fault_of

# Two, so that callers can change from one to the other while both hold.
MAX_OF_ONE = 2
# How long a token may hold that is no longer in the file, in seconds.
_LOOK_SECONDS = 1.0
_log = structlog.get_logger()


class TokenFileError(ValueError):
    """A file that has no tokens for us; the message says why, and nothing of what is in it."""


@dataclass(frozen=True, slots=True)
class TokenFormat:
    """How a file of tokens is written.

    Attributes:
        parse: Returns the tokens of a file, given its path and content; raises TokenFileError.
        max_bytes: The most bytes that it may have.
        event: How the log calls its tokens.
    """

    parse: Callable[[Path, bytes], Sequence[Token]]
    max_bytes: int
    event: str


class TokenFile:
    """The tokens of a file.

    The file is looked at when tokens are asked for, at most once a second, and read where it has
    changed. The path is followed anew each time, as Kubernetes changes a mounted Secret by a link
    on the way to it. A file that has become unusable leaves the tokens as they were.

    Args:
        path: The file.
        written: How it is written.

    Raises:
        TokenFileError: There is no such file, or it has no tokens.
    """

    def __init__(self, path: Path, written: TokenFormat) -> None:
        self._path = path
        self._format = written
        self._looking = threading.Lock()
        self._looked_at = time.monotonic()
        self._stamp, self._tokens = self._read()
        # Why the file cannot be used now; None where it can.
        self._fault: str | None = None

    def tokens(self) -> Sequence[Token]:
        """Returns the tokens that hold now.

        While a thread looks at the file, which may lie far away, others do not wait for it.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._looked_at = now
                self._look()
            finally:
                self._looking.release()
        return self._tokens

    @property
    def failing(self) -> bool:
        """Whether the file could not be used when it was last looked at."""
        return self._fault is not None

    def _look(self) -> None:
        if self._fault is None and stamp_of(self._path) == self._stamp:
            return
        try:
            self._stamp, tokens = self._read()
        except TokenFileError as error:
            self._complain(str(error))
        else:
            if tokens != self._tokens:
                _log.info(self._format.event, path=str(self._path), tokens=len(tokens))
            self._tokens, self._fault = tokens, None

    def _complain(self, fault: str) -> None:
        """Says once why the file cannot be used."""
        if fault != self._fault:
            self._fault = fault
            _log.warning(f"{self._format.event}_kept", reason=fault, tokens=len(self._tokens))

    def _read(self) -> tuple[Stamp, Sequence[Token]]:
        """Returns the stamp of the file and its tokens.

        Raises:
            TokenFileError: There is no such file, or it has no tokens.
        """
        try:
            stamp, content = read_plain_file(self._path, self._format.max_bytes)
        except PlainFileError as error:
            raise TokenFileError(str(error)) from None
        return stamp, self._format.parse(self._path, content)


def management_token(token: bytes) -> Token:
    """Returns a token of `management_token` or its file, which permits management alone."""
    return Token("management", digest_of(token), frozenset({Permission.MANAGE}))


def _parse_lines(path: Path, content: bytes) -> Sequence[Token]:
    tokens = [token for line in content.splitlines() if (token := line.strip())]
    if not tokens:
        raise TokenFileError(f"{path} is empty; a token is needed, or two, one a line")
    if len(tokens) > MAX_OF_ONE:
        raise TokenFileError(f"{path} has {len(tokens)} tokens; at most {MAX_OF_ONE} are taken")
    for token in tokens:
        if fault := fault_of(token):
            raise TokenFileError(f"{path} {fault}")
    return [management_token(token) for token in tokens]


# `management_token_file`: a token a line.
LINES = TokenFormat(_parse_lines, 4_096, "management_tokens")
