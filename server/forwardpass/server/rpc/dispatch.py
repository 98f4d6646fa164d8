"""What happens to every call before its handler sees it: it is counted, and admitted or refused."""

import dataclasses
import logging

import structlog

from forwardpass.server.metrics import MethodCounters
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call, Receiver, Route, Routes

_log = structlog.get_logger()


def counted(routes: Routes) -> tuple[dict[str, Route], dict[str, MethodCounters]]:
    """Returns the routes with every call counted and logged, and the counters by method."""
    counters = {method: MethodCounters(route.kind) for method, route in routes.items()}
    # What a line says of a call takes longer to find out than the call takes to be refused.
    is_logged = _log.is_enabled_for(logging.DEBUG)

    def wrap(method: str, route: Route) -> Route:
        def handle(call: Call, message: bytes) -> Receiver | None:
            counters[method].count(call)
            if is_logged:
                call.on_end(lambda code: _log_end(call, code))
            return route.handle(call, message)

        return dataclasses.replace(route, handle=handle)

    return {method: wrap(method, route) for method, route in routes.items()}, counters


def admitted(routes: Routes, admission: Admission) -> dict[str, Route]:
    """Returns the routes with every call admitted before its message is parsed."""

    def wrap(route: Route) -> Route:
        def handle(call: Call, message: bytes) -> Receiver | None:
            size = len(message)
            admission.enter(size)
            call.on_end(lambda _: admission.leave(size))
            return route.handle(call, message)

        return dataclasses.replace(route, handle=handle)

    return {method: wrap(route) for method, route in routes.items()}


def _log_end(call: Call, code: int) -> None:
    _log.debug(
        "call",
        method=call.method,
        code=code,
        request_id=call.request_id,
        peer=call.peer,
        seconds=round(call.elapsed, 6),
    )
