"""Who may make management calls: whoever has the token."""

import dataclasses
import hmac

from forwardpass.server.errors import CallError
from forwardpass.server.transport.call import Call, Receiver, Route, Routes
from forwardpass.wire import Reason

_KEY = "authorization"


def authorized(routes: Routes, token: str) -> dict[str, Route]:
    """Returns the routes with every call refused that does not carry `authorization: Bearer TOKEN`.

    The comparison takes as long for a wrong token as for the right one.
    """
    expected = f"Bearer {token}".encode()

    def wrap(route: Route) -> Route:
        def handle(call: Call, message: bytes) -> Receiver | None:
            given = call.metadata.get(_KEY, "").encode()
            if not hmac.compare_digest(given, expected):
                raise CallError(
                    Reason.UNAUTHENTICATED,
                    "the call takes the management token, as `authorization: Bearer TOKEN`",
                )
            return route.handle(call, message)

        return dataclasses.replace(route, handle=handle)

    return {method: wrap(route) for method, route in routes.items()}
