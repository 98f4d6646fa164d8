"""Whether a call may be made: by the token that it carries."""

import hmac
import threading
from collections.abc import Callable, Mapping, Sequence

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.numbers import Count
from forwardpass.server.rpc.open_streams import OpenStreams
from forwardpass.server.rpc.tokens import Permission, Token, digest_of, refusal
from forwardpass.server.scheduling.accounts import Account, Accounts
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Reason

_KEY = "authorization"
_SCHEME = "bearer"


class Authorization:
    """Admits the calls that carry `authorization: Bearer TOKEN`, each to what its token permits.

    Attributes:
        everywhere: Whether all methods take a token, unknown ones among them, or only those of
            management.
        denied: How many calls were refused, or ended, by why.

    Args:
        tokens: Returns the tokens that hold; the same object where they are the same.
        everywhere: See above.
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]], *, everywhere: bool) -> None:
        self._tokens = tokens
        self.everywhere = everywhere
        self._accounts = Accounts()
        # The tokens that held when somebody last asked, and the accounts of their names.
        self._held: tuple[Sequence[Token], Mapping[str, Account]] = (), {}
        self._holding = threading.Lock()
        self._missing, self._unknown, self._not_permitted = Count(), Count(), Count()
        revoked = Count()
        self._streams = OpenStreams(tokens, revoked.add)
        self.denied: Mapping[str, Count] = {
            "missing": self._missing,
            "unknown": self._unknown,
            "permission": self._not_permitted,
            "revoked": revoked,
            **self._accounts.refused,
        }

    def guards(self, permission: Permission) -> bool:
        """Whether calls that need this permission have to carry a token."""
        return self.everywhere or permission is Permission.MANAGE

    def authenticate(self, call: Call) -> tuple[Token, Account]:
        """Returns the token of a call and its account, which the call is charged to from now on.

        Comparing takes as long for a wrong one as for a right one, and for the first as for the
        last.

        Raises:
            CallError: It carries none, or none that holds.
        """
        scheme, _, given = call.metadata.get(_KEY, "").partition(" ")
        if scheme.lower() != _SCHEME:
            self._missing.add()
            raise CallError(
                Reason.UNAUTHENTICATED,
                "the call carries no token; it takes one, as `authorization: Bearer TOKEN`",
            )
        digest = digest_of(given.encode())
        tokens, accounts = self._holders()
        # A list, as `next` would stop at the first that is equal.
        equal = [one for one in tokens if hmac.compare_digest(digest, one.digest)]
        if not equal:
            self._unknown.add()
            raise CallError(
                Reason.UNAUTHENTICATED,
                "the call carries a token that this server does not take: it is wrong, or has been "
                "taken back; ask the operator for another one",
            )
        token = equal[0]
        account = accounts[token.name]
        call.charge_to(account)
        return token, account

    def check(self, call: Call, permission: Permission) -> tuple[Token, Account]:
        """Returns what `authenticate` does, of a call that its token permits.

        Raises:
            CallError: It carries no token that holds, or one that does not permit it.
        """
        token, account = self.authenticate(call)
        if permission not in token.permissions:
            self._not_permitted.add()
            raise refusal(token, permission)
        return token, account

    def follow(self, call: StreamCall, token: Token, permission: Permission) -> None:
        """Has a call with many messages end once its token no longer permits it."""
        self._streams.follow(call, token, permission)

    def _holders(self) -> tuple[Sequence[Token], Mapping[str, Account]]:
        """Returns the tokens that hold now, and the accounts of their names."""
        if self._tokens() is not self._held[0]:
            with self._holding:
                # Asked again, as another thread may have been here with newer ones.
                tokens = self._tokens()
                if tokens is not self._held[0]:
                    quotas = {token.name: token.quota for token in tokens}
                    self._held = tokens, self._accounts.update(quotas)
        return self._held
