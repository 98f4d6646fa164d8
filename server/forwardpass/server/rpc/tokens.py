"""Tokens, and what whoever has one may do."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from forwardpass.server.errors import CallError
from forwardpass.server.scheduling.accounts import UNLIMITED, Quota
from forwardpass.wire import Reason

# A shorter token was cut off, or can be guessed.
MIN_LENGTH = 8


class Permission(StrEnum):
    """What the calls of a method need; the value is its name in a file of tokens."""

    INFER = "infer"
    EMBED = "embed"
    GENERATE = "generate"
    READ = "read"
    MANAGE = "manage"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that holds. The token itself is not kept.

    Attributes:
        name: Whose it is, as the operator calls them.
        digest: The SHA-256 of the token, 32 bytes.
        permissions: What its calls may do.
        quota: The most that calls with tokens of this name hold together.
    """

    name: str
    digest: bytes = field(repr=False)
    permissions: frozenset[Permission]
    quota: Quota = UNLIMITED


def digest_of(token: bytes) -> bytes:
    """Returns the SHA-256 of a token, 32 bytes."""
    return hashlib.sha256(token).digest()


def fault_of(token: bytes) -> str | None:
    """Returns what is wrong with a token of a file; None where it can be used."""
    # No caller can send others: a token travels in a header.
    if not all(ord("!") <= byte <= ord("~") for byte in token):
        return "has a token with characters other than visible ASCII"
    if len(token) < MIN_LENGTH:
        return f"has a token of less than {MIN_LENGTH} characters"
    return None


def refusal(token: Token, permission: Permission) -> CallError:
    """Returns what a caller is told whose token does not permit a call."""
    permitted = ", ".join(sorted(token.permissions))
    return CallError(
        Reason.PERMISSION_DENIED,
        f"the call needs the permission {permission}, and its token, {token.name!r}, has only "
        f"{permitted}; ask the operator for another one",
    )
