"""Chooses the transport."""

from collections.abc import Callable
from typing import Literal

import structlog

from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import Route, Routes, Transport
from forwardpass.server.transport.stock import StockTransport
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.transit import Transit

Name = Literal["auto", "completion_queue", "stock"]
_log = structlog.get_logger()


class TransportError(RuntimeError):
    """The transport that was asked for does not work here; the message says why."""


def tick_of(name: Name) -> Tick | None:
    """Returns the tick of the completion queue's one thread; None for the stock transport.

    "auto" is the completion queue where the installed grpcio passes its trial.

    Raises:
        TransportError: The completion queue is asked for by name, and fails its trial.
    """
    if name == "stock":
        return None
    try:
        # It reaches for private names of grpcio as it is imported.
        from forwardpass.server.transport.completion_queue.contract import check_contract

        check_contract()
    except Exception as error:
        reason = f"the completion queue failed its trial with the installed grpcio: {error}"
        if name == "completion_queue":
            raise TransportError(f"{reason}; try --transport auto") from error
        _log.warning("stock_transport", reason=reason)
        return None
    return Tick()


def create_transport(
    listener: Listener,
    routes: Routes,
    tick: Tick | None,
    transit: Transit,
    helpers: int,
    *,
    look: Callable[[int], None],
    unknown: Route,
) -> Transport:
    """Returns the transport that a tick belongs to; the stock one where there is none.

    Args:
        listener: Where to listen, and the limits.
        routes: What answers each method.
        tick: As `tick_of` gives it.
        transit: What is on its way.
        helpers: Threads for steps that take long, where calls have none of their own.
        look: Is told how many events the completion queue's thread has taken, on that thread.
        unknown: What answers all other methods.
    """
    if tick is None:
        return StockTransport(listener, routes, transit, unknown)
    from forwardpass.server.transport.completion_queue.transport import CompletionQueueTransport

    return CompletionQueueTransport(
        listener, routes, tick, transit, helpers, look=look, unknown=unknown
    )
