"""Who may make management calls: whoever has a token."""

import hmac
from collections.abc import Callable, Sequence

from forwardpass.server.errors import CallError
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Reason

_KEY = "authorization"


class Authorization:
    """Admits the calls that carry `authorization: Bearer TOKEN`.

    Args:
        tokens: Returns the tokens that hold, any of which is enough. Comparing takes as long for a
            wrong one as for a right one, and for the first as for the last.
    """

    def __init__(self, tokens: Callable[[], Sequence[bytes]]) -> None:
        self._tokens = tokens

    def required(
        self, begin: Callable[[StreamCall, bytes], None]
    ) -> Callable[[StreamCall, bytes], None]:
        """Returns what begins to answer a call once it is known to carry a token."""

        def check(call: StreamCall, message: bytes) -> None:
            given = call.metadata.get(_KEY, "").encode()
            # A list, as `any` would stop at the first that is equal.
            equal = [hmac.compare_digest(given, b"Bearer " + one) for one in self._tokens()]
            if not any(equal):
                raise CallError(
                    Reason.UNAUTHENTICATED,
                    "the call takes the management token, as `authorization: Bearer TOKEN`",
                )
            begin(call, message)

        return check
