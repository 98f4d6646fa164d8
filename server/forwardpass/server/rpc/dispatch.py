"""What happens to every call before its handler sees it: it is counted, and admitted or refused."""

import dataclasses
import logging

import structlog

from forwardpass.server.errors import CallError
from forwardpass.server.metrics.counters import MethodCounters
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.transport.call import Call, Receiver, Route, Routes

_log = structlog.get_logger()


class Gate:
    """What every call of a method passes when it comes and when it goes.

    Args:
        route: What answers the method.
        counters: What is counted of it.
        admission: Admits its calls before their message is parsed; None where all are.
    """

    def __init__(self, route: Route, counters: MethodCounters, admission: Admission | None) -> None:
        self._route = route
        self._handle = route.handle
        self._count_start = counters.started.add
        self._handled = counters.handled
        self._admission = admission
        # What a line says of a call takes longer to find out than the call takes to be refused.
        self._is_logged = _log.is_enabled_for(logging.DEBUG)

    def guarded(self) -> Route:
        """Returns the route with its calls passing through here."""
        return dataclasses.replace(self._route, handle=self._enter)

    def _enter(self, call: Call, message: bytes) -> Receiver | None:
        self._count_start()
        call.size = len(message)
        try:
            if self._admission is not None:
                self._admission.enter(call.size)
        except CallError:
            call.on_end(self._count)
            raise
        call.on_end(self._leave)
        return self._handle(call, message)

    def _leave(self, call: Call, code: int) -> None:
        self._count(call, code)
        if self._admission is not None:
            self._admission.leave(call.size)

    def _count(self, call: Call, code: int) -> None:
        self._handled[code].add()
        if self._is_logged:
            _log_end(call, code)


def guard(
    routes: Routes, admission: Admission | None = None
) -> tuple[dict[str, Route], dict[str, MethodCounters]]:
    """Returns the routes with every call counted, logged and admitted, and the counters by method.

    Args:
        routes: What answers each method.
        admission: Admits the calls; None where all are.
    """
    counters = {method: MethodCounters(route.kind) for method, route in routes.items()}
    return {
        method: Gate(route, counters[method], admission).guarded()
        for method, route in routes.items()
    }, counters


def _log_end(call: Call, code: int) -> None:
    _log.debug(
        "call",
        method=call.method,
        code=code,
        request_id=call.request_id,
        peer=call.peer,
        seconds=round(call.elapsed, 6),
    )
