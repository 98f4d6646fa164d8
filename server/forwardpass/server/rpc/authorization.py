"""Who may make management calls: whoever has the token."""

import hmac
from collections.abc import Callable

from forwardpass.server.errors import CallError
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Reason

_KEY = "authorization"


class Authorization:
    """Admits the calls that carry `authorization: Bearer TOKEN`.

    Args:
        token: The token. Comparing takes as long for a wrong one as for the right one.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def required(
        self, begin: Callable[[StreamCall, bytes], None]
    ) -> Callable[[StreamCall, bytes], None]:
        """Returns what begins to answer a call once it is known to carry the token."""

        def check(call: StreamCall, message: bytes) -> None:
            given = call.metadata.get(_KEY, "").encode()
            if not hmac.compare_digest(given, self._expected):
                raise CallError(
                    Reason.UNAUTHENTICATED,
                    "the call takes the management token, as `authorization: Bearer TOKEN`",
                )
            begin(call, message)

        return check
