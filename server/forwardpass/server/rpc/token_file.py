"""The tokens of a file, which is read again when it changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forwardpass.server.process.plain_file import Stamp, UnusableFileError, read_plain_file
from forwardpass.server.process.watched_files import WatchedFiles
from forwardpass.server.rpc.tokens import Permission, Token, digest_of, fault_of

# Two, so that callers can change from one to the other while both hold.
MAX_OF_ONE = 2


class TokenFileError(UnusableFileError):
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


class TokenFile(WatchedFiles[Sequence[Token]]):
    """The tokens of a file; asked for by each call that has to carry one, or for metrics.

    Args:
        path: The file.
        written: How it is written.

    Raises:
        TokenFileError: There is no such file, or it has no tokens.
    """

    def __init__(self, path: Path, written: TokenFormat) -> None:
        self._path = path
        self._format = written
        super().__init__([path], written.event)

    def _read(self) -> tuple[Sequence[Stamp | None], Sequence[Token]]:
        try:
            stamp, content = read_plain_file(self._path, self._format.max_bytes)
        except UnusableFileError as error:
            raise TokenFileError(str(error)) from None
        return [stamp], self._format.parse(self._path, content)

    def _about(self, current: Sequence[Token]) -> Mapping[str, object]:
        return {"path": str(self._path), "tokens": len(current)}


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
