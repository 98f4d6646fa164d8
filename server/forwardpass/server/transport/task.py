"""Drives handlers: native coroutines that run on the thread of their call, without asyncio.

A handler that awaits a `Future` is suspended; whoever settles the future, on whichever thread, has
the call resume the handler on the call's own thread. So a handler reads in the order of time, and
holds no thread while it waits.

    Task.step ─► coroutine ─► await Future ─┐        settled: Future.set, Future.fail
        ▲                                   │               (any thread)
        └──────── call.resume ◄─────────────┴─────────────────────┘
"""

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CallEnded(BaseException):
    """The call ended while its handler was suspended: the caller left, or its deadline passed.

    It is thrown into the handler where it waits, so that `finally` and `with` blocks release what
    the call holds. Like `asyncio.CancelledError` it is no `Exception`: a handler does not catch it.

    Args:
        code: The gRPC status code that the call ended with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Driven(Protocol):
    """What a task needs of its call."""

    @property
    def code(self) -> int | None:
        """The status code that the call ended with; None while it is open."""

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """Runs a step on the call's own thread."""

    def fail_with(self, error: BaseException) -> None:
        """Ends the call with an exception."""


class Future(Generic[T]):
    """A value that a handler waits for. One handler may await it, once.

    Args:
        call: Resumes the handler. A call that has ended resumes nothing, so the future is then
            never settled, and the handler has been thrown `CallEnded`.
    """

    __slots__ = ("_call", "_error", "_is_settled", "_task", "_value")

    def __init__(self, call: Driven) -> None:
        self._call = call
        self._task: Task[Any] | None = None
        self._is_settled = False
        self._value: T | None = None
        self._error: BaseException | None = None

    def set(self, value: T) -> None:
        """Settles it with a value; from any thread."""
        self._call.resume(self.settle, value)

    def fail(self, error: BaseException) -> None:
        """Has awaiting it raise; from any thread."""
        # Kept, not handed on: the traceback will hold every frame on the way, and a frame that
        # had the error as an argument would be a cycle with it.
        self._error = error
        self._call.resume(self._settle_error)

    def settle(self, value: T) -> None:
        """Settles it with a value, on the call's own thread; does nothing the second time."""
        if not self._is_settled:
            self._is_settled = True
            self._value = value
            # As `_wake`, for which every message of a stream would pay.
            task, self._task = self._task, None
            if task is not None:
                task.step()

    def detach(self) -> None:
        """Wakes nobody any more: its handler waits no longer."""
        self._task = None

    def attach(self, task: "Task[Any]") -> None:
        """Wakes a task once the future is settled."""
        self._task = task

    def __await__(self) -> "Generator[Future[Any], None, T]":
        """Suspends the handler until the future is settled.

        Raises:
            BaseException: What `fail` was given.
        """
        if not self._is_settled:
            yield self
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                # The traceback holds this frame: with the error in it, they would be a cycle.
                del error
        # Taken, not kept: who waits on keeps the future and not what it brought.
        value, self._value = self._value, None
        return value  # type: ignore[return-value]  # set, where it is settled without an error

    def _settle_error(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._wake()

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.step()


class Task(Future[T]):
    """A coroutine that a call drives; awaiting it gives what the coroutine returns.

    An exception that leaves the coroutine ends the call, which ends the call's other tasks.

    Args:
        call: The call.
        coroutine: What to drive.
        on_done: Called with the task and the value that the coroutine returns.
    """

    __slots__ = ("_awaited", "_coroutine", "_on_done")

    def __init__(
        self,
        call: Driven,
        coroutine: Coroutine[Any, Any, T],
        on_done: "Callable[[Task[T], T], None]",
    ) -> None:
        super().__init__(call)
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine
        self._awaited: Future[Any] | None = None
        self._on_done = on_done

    def step(self, error: BaseException | None = None) -> None:
        """Runs the coroutine until it waits again, or ends.

        Args:
            error: What is raised where it waits; None where it goes on.
        """
        coroutine, self._awaited = self._coroutine, None
        if coroutine is None:
            return
        call = self._call
        try:
            while True:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
                if (code := call.code) is None:
                    break
                # The call ended while the coroutine ran: what it waits for will not come.
                error = CallEnded(code)
        except StopIteration as stop:
            self._coroutine = None
            self._on_done(self, stop.value)
        except CallEnded:
            self._coroutine = None
        except BaseException as raised:  # noqa: BLE001  # whatever it is, the caller gets an answer
            self._coroutine = None
            call.fail_with(raised)
        else:
            self._awaited = awaited
            awaited.attach(self)
        finally:
            # As in `Future.__await__`: the traceback of an error holds this frame.
            del error

    def cancel(self, code: int) -> None:
        """Ends a suspended coroutine because its call has ended; one that runs finds out itself."""
        awaited = self._awaited
        if awaited is not None:
            awaited.detach()
            self.step(CallEnded(code))


class Signal:
    """Wakes a handler, from any thread. A signal that comes before it waits is not lost.

    Args:
        call: Resumes the handler.
    """

    __slots__ = ("_call", "_is_set", "_waiting")

    def __init__(self, call: Driven) -> None:
        self._call = call
        self._is_set = False
        self._waiting: Future[None] | None = None

    def set(self) -> None:
        """Wakes the handler; from any thread."""
        self._call.resume(self.set_here)

    def set_here(self) -> None:
        """Wakes the handler; on the call's own thread."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._is_set = True
        else:
            waiting.settle(None)

    async def wait(self) -> None:
        """Returns once there has been a signal since the last time."""
        if not self._is_set:
            self._waiting = Future(self._call)
            await self._waiting
        self._is_set = False
