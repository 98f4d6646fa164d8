"""Whether a call may be made: by the token that it carries."""

import hmac
from collections.abc import Callable, Mapping, Sequence

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.numbers import Count
from forwardpass.server.rpc.tokens import Permission, Token, digest_of
from forwardpass.server.transport.call import Call
from forwardpass.wire import Reason

_KEY = "authorization"
_SCHEME = "Bearer "


class Authorization:
    """Admits the calls that carry `authorization: Bearer TOKEN`, each to what its token permits.

    Attributes:
        everywhere: Whether all methods take a token, unknown ones among them, or only those of
            management.
        denied: How many calls were refused, by why.

    Args:
        tokens: Returns the tokens that hold.
        everywhere: See above.
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]], *, everywhere: bool) -> None:
        self._tokens = tokens
        self.everywhere = everywhere
        self._missing, self._unknown, self._not_permitted = Count(), Count(), Count()
        self.denied: Mapping[str, Count] = {
            "missing": self._missing,
            "unknown": self._unknown,
            "permission": self._not_permitted,
        }

    def guards(self, permission: Permission) -> bool:
        """Whether calls that need this permission have to carry a token."""
        return self.everywhere or permission is Permission.MANAGE

    def authenticate(self, call: Call) -> Token:
        """Returns the token of a call.

        Comparing takes as long for a wrong one as for a right one, and for the first as for the
        last.

        Raises:
            CallError: It carries none, or none that holds.
        """
        header = call.metadata.get(_KEY, "")
        given = header.removeprefix(_SCHEME)
        if given == header:
            self._missing.add()
            raise CallError(
                Reason.UNAUTHENTICATED,
                "the call carries no token; it takes one, as `authorization: Bearer TOKEN`",
            )
        digest = digest_of(given.encode())
        # A list, as `next` would stop at the first that is equal.
        equal = [one for one in self._tokens() if hmac.compare_digest(digest, one.digest)]
        if not equal:
            self._unknown.add()
            raise CallError(
                Reason.UNAUTHENTICATED,
                "the call carries a token that this server does not take: it is wrong, or has been "
                "taken back; ask the operator for another one",
            )
        return equal[0]

    def check(self, call: Call, permission: Permission) -> None:
        """Lets a call pass whose token permits it.

        Raises:
            CallError: It carries no token that holds, or one that does not permit it.
        """
        token = self.authenticate(call)
        if permission not in token.permissions:
            self._not_permitted.add()
            permitted = ", ".join(sorted(token.permissions))
            raise CallError(
                Reason.PERMISSION_DENIED,
                f"the call needs the permission {permission}, and its token, {token.name!r}, has "
                f"only {permitted}; ask the operator for another one",
            )
