"""A call as its handler sees it: bytes and awaitables, no asyncio and no grpc types.

The states of a call, and what moves it from one to the next:

    state      | reply, finish, fail | caller leaves, deadline passes | resume        | write, read
    -----------+---------------------+--------------------------------+---------------+------------
    open       | ─► ended            | ─► ended                       | runs the step | done
    ended      | nothing             | nothing                        | nothing       | nothing

On the way from open to ended, once: the code is set, the callbacks of `on_end` are called, and
handlers that are suspended are thrown `CallEnded`. All of it happens on the call's own thread: one
thread for all calls on the completion queue, a thread for each call on the stock transport. Other
threads reach a call by `resume` alone, which is what the futures of `task` stand on.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from typing import Any, TypeVar, TypeVarTuple

import structlog

from forwardpass.server.errors import CallError
from forwardpass.server.transport.task import Future, Task
from forwardpass.wire import Failure, Reason

REQUEST_ID_KEY = "x-request-id"
# What a unary call is told that came without its message.
NO_MESSAGE = Failure(
    Reason.INTERNAL, "the call ended without a message; a unary call sends exactly one"
)
_REQUEST_ID_LENGTH = 64
_OK = 0
_log = structlog.get_logger()
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Call(ABC):
    """One call with one answer, from its arrival to its end.

    A handler is a coroutine that the call drives: what it returns is the answer, what it raises
    fails the call.

    Attributes:
        method: The path, such as "/forwardpass.v1.InferenceService/Predict".
        deadline: When the caller stops waiting, by `time.monotonic`; None for never.
        started: When it arrived, by `time.perf_counter`.
        size: Bytes of its one message, once it has been received; 0 for a stream.
        code: The gRPC status code that it ended with; None while it is open.
    """

    __slots__ = (
        "_account",
        "_callbacks",
        "_request_id",
        "_tasks",
        "code",
        "deadline",
        "method",
        "size",
        "started",
    )

    def __init__(self, method: str, deadline: float | None) -> None:
        self.method = method
        self.deadline = deadline
        self.started = time.perf_counter()
        self.size = 0
        self.code: int | None = None
        self._account: Hashable | None = None
        self._request_id = ""
        self._callbacks: list[OnEnd] = []
        # Made with the first task: calls of a known form have none.
        self._tasks: set[Task[Any]] | None = None

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What the caller sent beside its message, as `text_metadata` tells it."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""

    @abstractmethod
    def reply(self, message: bytes) -> None:
        """Sends the one answer and ends the call well."""

    @abstractmethod
    def fail(self, failure: Failure) -> None:
        """Ends the call with a failure."""

    @abstractmethod
    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """Runs a step on the call's own thread, once what was written before has been sent.

        It may be called from any thread. What the step raises fails the call.
        """

    @abstractmethod
    def submit(self, step: Callable[[], None], *, waits: bool) -> None:
        """Runs a step, which does not raise, where it keeps no other call waiting.

        Args:
            step: What to run.
            waits: Whether it waits for something rather than computes.
        """

    @property
    def has_ended(self) -> bool:
        """Whether nobody waits any more, so that work for it can be given up; from any thread."""
        return self.code is not None

    @property
    def account(self) -> Hashable:
        """Whose share of the server it takes: the one it is charged to, else its connection."""
        return self.peer if self._account is None else self._account

    def charge_to(self, account: Hashable) -> None:
        """Has what the call takes counted for an account, whichever connection it came by."""
        self._account = account

    @property
    def request_id(self) -> str:
        """The caller's own `x-request-id`, or one made here.

        It stands in every log line and error of this call. Most calls never need it.
        """
        if not self._request_id:
            given = self.metadata.get(REQUEST_ID_KEY, "")[:_REQUEST_ID_LENGTH]
            self._request_id = given or uuid.uuid4().hex
        return self._request_id

    @property
    def elapsed(self) -> float:
        """Seconds since it arrived."""
        return time.perf_counter() - self.started

    def drive(self, handler: Coroutine[Any, Any, bytes]) -> None:
        """Runs the call's handler; what it returns is the answer."""
        self._begin(handler, self._answer)

    def offload(self, step: Callable[[], T], *, waits: bool = False) -> Future[T]:
        """Runs a step that takes long on another thread; awaiting the future gives its result.

        Args:
            step: What to run.
            waits: Whether it waits for something rather than computes: such steps have threads of
                their own, and keep no image from being decoded.
        """
        future: Future[T] = Future(self)
        self.submit(lambda: _settle(future, step), waits=waits)
        return future

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Runs a coroutine beside the handler; awaiting the task gives what it returns.

        What it raises fails the call, whether or not it is awaited.
        """
        return self._begin(coroutine, self._settle_task)

    def on_end(self, callback: "OnEnd") -> None:
        """Has the callback called once, with the call and its status code, when the call ends.

        It comes before the caller can see that the call has ended.
        """
        if self.code is None:
            self._callbacks.append(callback)
        else:
            callback(self, self.code)

    def guard(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        """Runs a step, and fails the call with what the step raises."""
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
            self.fail_with(error)

    def fail_with(self, error: BaseException) -> None:
        """Fails the call with an exception.

        What is not a `CallError` is a fault of ours: the caller learns the request id, the log the
        rest.
        """
        if isinstance(error, CallError):
            self.fail(error.failure)
            return
        _log.error("call_failed", method=self.method, request_id=self.request_id, exc_info=error)
        # Whatever showed it may have copied the variables of its frames, the error among them.
        error.__traceback__ = None
        self.fail(
            Failure(
                Reason.INTERNAL,
                f"internal error; the server's log has it under request id {self.request_id}",
                request_id=self.request_id,
            )
        )

    def _begin(
        self, coroutine: Coroutine[Any, Any, T], on_done: Callable[[Task[T], T], None]
    ) -> Task[T]:
        task = Task(self, coroutine, on_done)
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.step()
        return task

    def _answer(self, task: Task[bytes], message: bytes) -> None:
        self._drop(task)
        self.reply(message)

    def _settle_task(self, task: Task[T], value: T) -> None:
        self._drop(task)
        task.settle(value)

    def _drop(self, task: Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)

    def _end(self, code: int) -> bool:
        """Moves the call from open to ended; whether it was open."""
        if self.code is not None:
            return False
        self.code = code
        for callback in self._callbacks:
            callback(self, code)
        # They hold on to what holds on to the call, and so do the tasks.
        self._callbacks.clear()
        tasks, self._tasks = self._tasks, None
        if tasks:
            for task in tasks:
                task.cancel(code)
        return True


def text_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Returns what a caller has sent by its keys, without binary values.

    A key that came twice has both values, joined by a comma as gRPC has it: whoever reads one must
    not be shown the one of them that he likes.
    """
    found: dict[str, str] = {}
    for key, value in pairs:
        if isinstance(value, str):
            found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _settle(future: Future[T], step: Callable[[], T]) -> None:
    try:
        value = step()
    except Exception as error:  # noqa: BLE001  # raised where the handler waits
        future.fail(error)
    else:
        future.set(value)


# Takes a call that has ended, and its status code.
OnEnd = Callable[[Call, int], None]
