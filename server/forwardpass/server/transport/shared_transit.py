"""What is on its way to and from the stock transport, where each call has a thread."""

import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from forwardpass.server.transport.transit import LONG_BYTES, YOUNG_SECONDS, Transit
from forwardpass.wire import Failure

_log = structlog.get_logger()
# Of a message that a thread takes in, while others take in theirs: as core unpacks it, as grpcio
# gathers it, and as it gives it to us. Which of them wait for a core, nobody tells.
_COPIES = 3


class Cuttable(Protocol):
    """A call that can be ended from any thread."""

    @property
    def account(self) -> Hashable:
        """See `Transfer.account`."""

    def cut(self, why: Failure) -> None:
        """Ends it."""


class StockTransfer:
    """A message of a call on its way, in or out.

    Attributes:
        unsent: See `Transfer.unsent`.
    """

    __slots__ = ("_call", "unsent")

    def __init__(self, call: Cuttable) -> None:
        self._call = call
        self.unsent = 0

    @property
    def account(self) -> Hashable:
        """See `Transfer.account`."""
        return self._call.account

    def evict(self, why: Failure) -> None:
        """See `Transfer.evict`."""
        self._call.cut(why)


class StockArrival(StockTransfer):
    """A message that comes in, and that a thread may have to wait to ask for.

    Attributes:
        turn: Comes when it may be asked for; None where it need not wait.
        size: Its bytes, once it is there.
    """

    __slots__ = ("size", "turn")

    def __init__(self, call: Cuttable) -> None:
        super().__init__(call)
        self.turn: threading.Event | None = None
        self.size = 0

    @property
    def has_ended(self) -> bool:
        """See `Arrival.has_ended`: whose thread waits is told in any case."""
        return False

    def ask(self) -> None:
        """See `Arrival.ask`: the thread that waits does it."""
        if self.turn is not None:
            self.turn.set()

    def ask_apart(self) -> None:
        """See `Arrival.ask_apart`."""
        self.ask()

    def evict(self, why: Failure) -> None:
        """See `Transfer.evict`."""
        self.ask()
        super().evict(why)


class SharedTransit:
    """What is on its way, for many threads, and a thread of its own that looks after it.

    Args:
        transit: What it is.
    """

    def __init__(self, transit: Transit) -> None:
        self._transit = transit
        transit.shared_by_threads(_COPIES)
        self._changed = threading.Condition()
        self._is_asleep = self._is_closed = False
        self._thread = threading.Thread(target=self._watch, name="transit", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether there is a thread that looks after it."""
        return self._thread.is_alive()

    @contextmanager
    def receiving(self, arrival: StockArrival) -> Iterator[None]:
        """Waits until a message may be asked for, which is inside."""
        transit = self._transit
        with self._changed:
            if len(transit.arriving) < transit.places:
                transit.arriving[arrival] = time.perf_counter()
            else:
                # Its own, as all who wait would wake up for each other's.
                arrival.turn = threading.Event()
                transit.wait(arrival)
            self._wake()
        if arrival.turn is not None:
            arrival.turn.wait()
        try:
            yield
        finally:
            with self._changed:
                if arrival.size > LONG_BYTES:
                    transit.was_long(arrival)
                transit.received(arrival)

    @contextmanager
    def sending(self, transfer: StockTransfer) -> Iterator[None]:
        """Counts an answer as being sent, inside."""
        with self._changed:
            self._transit.leaving[transfer] = time.perf_counter()
            self._wake()
        try:
            yield
        finally:
            with self._changed:
                self._transit.sent(transfer)

    def _wake(self) -> None:
        if self._is_asleep:
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._is_closed:
                seconds = None
                try:
                    self._transit.age(time.perf_counter() - YOUNG_SECONDS)
                    seconds = self._transit.look()
                except Exception:  # noqa: BLE001  # logged with its traceback
                    _log.exception("transit_failed")
                self._is_asleep = seconds is None
                self._changed.wait(seconds)
