"""The file of `tokens_file`: TOML, with a name, a token and its permissions in each entry.

    [[tokens]]
    name = "nightly-embedding"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    permissions = ["embed", "read"]
    max_in_flight = 16
    max_in_flight_bytes = 16_777_216

Nothing that is refused of it is quoted: a token may stand in the wrong place.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from forwardpass.server.rpc.token_file import MAX_OF_ONE, TokenFileError, TokenFormat
from forwardpass.server.rpc.tokens import Permission, Token, digest_of, fault_of
from forwardpass.server.scheduling.accounts import Quota

# Each is compared with the token of every call.
_MAX_TOKENS = 64
_MAX_BYTES = 65_536
_DIGEST = re.compile("[0-9a-fA-F]{64}")
_NAME = re.compile("[!-~]{1,64}")
_POSITION = re.compile(r"at (line \d+, column \d+|end of document)")


class _Entry(BaseModel):
    """One `[[tokens]]` of the file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    token: SecretStr | None = None
    sha256: str | None = None
    permissions: frozenset[Permission] = Field(min_length=1)
    max_in_flight: int | None = Field(None, ge=1, strict=True)
    max_in_flight_bytes: int | None = Field(None, ge=1, strict=True)

    @field_validator("name")
    @classmethod
    def _check_name(cls, given: str) -> str:
        if not _NAME.fullmatch(given):
            raise ValueError("it takes 1 to 64 characters, all of them visible ASCII")
        return given

    @field_validator("token")
    @classmethod
    def _check_token(cls, given: SecretStr) -> SecretStr:
        if fault := fault_of(given.get_secret_value().encode()):
            raise ValueError(f"it {fault}")
        return given

    @field_validator("sha256")
    @classmethod
    def _check_digest(cls, given: str) -> str:
        if not _DIGEST.fullmatch(given):
            raise ValueError("a SHA-256 has 64 hexadecimal digits")
        if bytes.fromhex(given) == digest_of(b""):
            raise ValueError("it is the SHA-256 of nothing, as an unset variable gives")
        return given

    @model_validator(mode="after")
    def _check_secret(self) -> Self:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("it takes either a token or its sha256")
        return self

    def to_token(self) -> Token:
        if self.token is not None:
            digest = digest_of(self.token.get_secret_value().encode())
        else:
            assert self.sha256 is not None
            digest = bytes.fromhex(self.sha256)
        quota = Quota(self.max_in_flight, self.max_in_flight_bytes)
        return Token(self.name, digest, self.permissions, quota)


class _Table(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[_Entry] = Field(min_length=1, max_length=_MAX_TOKENS)


def _parse_table(path: Path, content: bytes) -> Sequence[Token]:
    try:
        table = _Table.model_validate(_parse_toml(path, content))
    except ValidationError as error:
        raise TokenFileError(f"{path}: {_explain(error)}") from None
    tokens = [entry.to_token() for entry in table.tokens]
    for name, count in Counter(token.name for token in tokens).items():
        if count > MAX_OF_ONE:
            raise TokenFileError(
                f"{path} has {count} tokens of the name {name!r}; at most {MAX_OF_ONE} are taken"
            )
    quotas = {(token.name, token.quota) for token in tokens}
    for name, count in Counter(name for name, _ in quotas).items():
        if count > 1:
            raise TokenFileError(
                f"{path} has two tokens of the name {name!r} with different bounds; these are the "
                "name's, so both have to state the same max_in_flight and max_in_flight_bytes"
            )
    if len({token.digest for token in tokens}) != len(tokens):
        raise TokenFileError(f"{path} has the same token twice")
    return tokens


def _parse_toml(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise TokenFileError(f"{path} has to be UTF-8, as all TOML") from None
    except (ValueError, RecursionError) as error:
        # tomllib's own error is a ValueError, and so is Python's for a number that is too long. All
        # but the position may quote the file.
        found = _POSITION.search(str(error))
        where = f", {found[0]}" if found else ""
        raise TokenFileError(f"{path} is not TOML{where}") from None


def _explain(error: ValidationError) -> str:
    """Returns what is wrong first, and where; the name of an unknown key may be a token."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = first["loc"]
    told = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        place = place[:-1]
        known = _Entry.model_fields if place else _Table.model_fields
        told = f"there is an unknown key; the keys are {', '.join(known)}"
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    where = "".join(parts).removeprefix(".")
    return f"{where}: {told}" if where else told


# `tokens_file`.
TABLE = TokenFormat(_parse_table, _MAX_BYTES, "tokens")
