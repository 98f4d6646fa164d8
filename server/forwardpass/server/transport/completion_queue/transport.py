"""The loop: takes events from the queue, and ends a tick when no more are ready."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, cast

import structlog

from forwardpass.server.transport.completion_queue.call import CallContext, QueueCall
from forwardpass.server.transport.completion_queue.core import TIMEOUT, Event, create_server
from forwardpass.server.transport.listener import Listener
from forwardpass.server.transport.route import HANG_SECONDS, UNKNOWN, Route, Routes, Transport
from forwardpass.server.transport.tick import Tick
from forwardpass.server.transport.transit import YOUNG_SECONDS, Transit

# Calls that core may hand us before we ask for more.
_OUTSTANDING = 64
# A tick ends after this many events even if more are ready, so that none waits for long.
_MOST_EVENTS = 256
# For so many seconds a tick does what was put off; the last may go on for longer.
_LATER_SECONDS = 0.001
# Steps that wait, such as for a model to be loaded.
_WAITING_STEPS = 16
# Messages that core unpacks at a time.
_ASKING_THREADS = 2
# How long cancelled calls may take to end.
_RELEASE_SECONDS = 5.0
_PAST = 0.0
_log = structlog.get_logger()


class CompletionQueueTransport(Transport):
    """One thread for all calls, and a pool for steps that take long.

    Args:
        listener: Where to listen, and the limits.
        routes: What answers each method.
        tick: Runs what is deferred until everything that is ready has been taken in.
        transit: What is on its way.
        helpers: How many threads the pool has.
        look: Is told at the end of each tick how many events it took, on the transport's thread.
        unknown: What answers all other methods.
    """

    def __init__(
        self,
        listener: Listener,
        routes: Routes,
        tick: Tick,
        transit: Transit,
        helpers: int,
        *,
        look: Callable[[int], None],
        unknown: Route = UNKNOWN,
    ) -> None:
        self._listener = listener
        self._unknown = unknown
        self._routes = {method.encode(): (method, route) for method, route in routes.items()}
        self._tick = tick
        self._look_at_load = look
        self._context = CallContext(
            ThreadPoolExecutor(helpers, "computing"),
            ThreadPoolExecutor(_WAITING_STEPS, "waiting"),
            ThreadPoolExecutor(_ASKING_THREADS, "asking"),
            transit,
        )
        self._thread = threading.Thread(target=self._serve, name="transport", daemon=True)
        self._server: Any = None
        self._queue: Any = None
        self._over = threading.Event()
        self._is_over = False
        # Whether the thread waits for events, and since when somebody wants to see it take one.
        self._is_idle = False
        self._asked_at: float | None = None
        # Where the thread's processor time stands while there is a thread, and what was last read.
        self._clock: int | None = None
        self._cpu_seconds = 0.0
        # Calls that were not answered in the tick in which they came.
        self._older: list[QueueCall] = []
        # Whether a step of ours is in the queue that tells what is behind it.
        self._is_marked = False

    def start(self) -> int:
        """See `Transport.start`."""
        self._server, self._queue, port = create_server(self._listener)
        self._server.start()
        self._thread.start()
        return port

    def is_alive(self) -> bool:
        """See `Transport.is_alive`: not once its thread has taken no event for too long.

        That is told by two questions: the first begins to watch, and who asks later is told.
        """
        if not self._thread.is_alive():
            return False
        now, asked_at = time.monotonic(), self._asked_at
        if self._is_idle or asked_at is None:
            self._asked_at = now
            return True
        return now - asked_at < HANG_SECONDS

    def cpu_seconds(self) -> float | None:
        """See `Transport.cpu_seconds`."""
        clock = self._clock
        if clock is not None:
            # Where the thread has ended since, the clock is gone.
            with suppress(OSError):
                self._cpu_seconds = time.clock_gettime(clock)
        return self._cpu_seconds

    def stop(self, grace: float) -> None:
        """See `Transport.stop`."""
        if self._server is None:
            return
        self._server.shutdown(self._queue, self._on_shutdown)
        if not self._over.wait(grace):
            self._server.cancel_all_calls()
            self._over.wait(_RELEASE_SECONDS)
        if self._over.is_set():
            self._thread.join()
            self._server.destroy()
        self._context.computing.shutdown(wait=False)
        self._context.waiting.shutdown(wait=False)
        self._context.asking.shutdown(wait=False)

    def _serve(self) -> None:
        self._context.thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._context.thread)
        # The next calls stand in the queue before the messages of those that came just before: with
        # more, messages would have to wait for room where callers are as quick as we are.
        for _ in range(min(_OUTSTANDING, (self._context.transit.most_arriving + 1) // 2)):
            self._ask()
        poll, tick, context, now = self._queue.poll, self._tick, self._context, time.time
        transit, steps, unwatched = context.transit, tick.steps, context.unwatched
        posted, long = context.posted, context.long
        arriving, leaving = transit.arriving, transit.leaving
        taken = 0
        event: Event = None
        while not self._is_over:
            # While it waits it holds no call: the last event has its call as its tag.
            event = None
            if steps or posted or long:
                event = poll(_PAST)
            else:
                self._is_idle = True
                if arriving or leaving or transit.is_swollen:
                    event = poll(now() + YOUNG_SECONDS)
                else:
                    event = poll()
                self._is_idle = False
                self._asked_at = None
            try:
                if event.completion_type != TIMEOUT:
                    event.tag(event)
                    taken += 1
                    if taken < _MOST_EVENTS:
                        if unwatched and not (steps or posted or long):
                            self._watch(unwatched)
                        continue
                self._end_tick(taken)
            except Exception:  # noqa: BLE001  # logged with its traceback
                # One call must not take the others with it.
                _log.exception("transport_failed")
            taken = 0
        self._clock = None

    def _end_tick(self, taken: int) -> None:
        self._asked_at = None
        self._look_at_load(taken)
        context, tick = self._context, self._tick
        transit = context.transit
        if context.posted or context.long:
            self._do_later()
        if transit.arriving or transit.leaving or transit.is_swollen:
            self._look()
        if tick.steps:
            tick.end()
        if self._older:
            self._watch(self._older)
        if context.unwatched:
            if tick.steps:
                # Most are answered in the next tick, which follows at once.
                self._older.extend(context.unwatched)
                context.unwatched.clear()
            else:
                self._watch(context.unwatched)

    def _do_later(self) -> None:
        """Does what was put off until some time is over: something of each kind."""
        end = time.perf_counter() + _LATER_SECONDS
        for steps in (self._context.posted, self._context.long):
            while steps:
                steps.popleft()()
                if time.perf_counter() >= end:
                    break

    @staticmethod
    def _watch(calls: list[QueueCall]) -> None:
        """Notices from now on when the callers leave of those calls that are still open."""
        for call in calls:
            if call.code is None:
                call.watch()
        calls.clear()

    def _look(self) -> None:
        """Looks after the messages that are under way."""
        transit, now = self._context.transit, time.perf_counter()
        if not self._is_marked and (transfer := transit.may_be_slow(now)) is not None:
            # It may be there and wait behind others; not when this comes out of the queue.
            self._is_marked = True
            cast("QueueCall", transfer).post(partial(self._on_mark, now - YOUNG_SECONDS))
        transit.look()

    def _on_mark(self, before: float) -> None:
        self._is_marked = False
        self._context.transit.age(before)

    def _ask(self) -> None:
        try:
            self._server.request_call(self._queue, self._queue, self._on_call)
        except ValueError:
            # It is being shut down, on another thread.
            return

    def _on_call(self, event: Event) -> None:
        if not event.success:
            return
        waiting = self._context.transit.waiting
        if waiting.count and not waiting.has_long:
            # Their messages are soon taken in; with more calls now, there would always be some that
            # wait.
            self._context.posted.append(self._ask)
        else:
            self._ask()
        name = event.call_details.method
        method, route = self._routes.get(name) or (name.decode(errors="replace"), self._unknown)
        QueueCall(self._context, method, route, event).begin()

    def _on_shutdown(self, _: Event) -> None:
        self._is_over = True
        self._over.set()
