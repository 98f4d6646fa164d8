"""The client for asyncio: the methods of `Client`, awaited."""

import asyncio
import time
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast
from weakref import WeakKeyDictionary, ref

import grpc
import grpc.aio

from forwardpass.client.caller import Caller
from forwardpass.client.channel import Options
from forwardpass.client.connection import Connection, Connections
from forwardpass.client.errors import Cancelled, TimedOut
from forwardpass.client.operations import Operations
from forwardpass.client.retries import is_unsent
from forwardpass.client.settings import Settings
from forwardpass.client.steps import (
    END,
    Begin,
    Call,
    Emit,
    Flow,
    Items,
    Many,
    Offload,
    Open,
    Pause,
    Receive,
    Send,
    Step,
    Stream,
    Take,
    Warn,
)
from forwardpass.wire import TensorError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_CLOSED = "the client was closed"
# Calls under way on a connection; half of what a server takes. It counts a call until it has let
# go of it, which may be after the answer has come, and refuses what is too much.
_CALLS_OF_CONNECTION = 128
# Of warnings: from where they are raised to the line that awaits.
_TO_CALLER = 3


def _awaited(
    operation: Callable[Concatenate[Operations, Arguments], Flow[Result]],
) -> Callable[Concatenate["AsyncClient", Arguments], Awaitable[Result]]:
    @wraps(operation)
    def method(
        self: "AsyncClient", /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Awaitable[Result]:
        return self._drive(operation(self._operations, *args, **kwargs))

    return method


def _streaming(
    operation: Callable[Concatenate[Operations, Arguments], Stream[Result]],
) -> Callable[Concatenate["AsyncClient", Arguments], AsyncIterator[Result]]:
    @wraps(operation)
    def method(
        self: "AsyncClient", /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> AsyncIterator[Result]:
        return self._stream(operation(self._operations, *args, **kwargs))

    return method


def _yielding(
    operation: Callable[Concatenate[Operations, Arguments], Many[Result]],
) -> Callable[Concatenate["AsyncClient", Arguments], AsyncIterator[Result]]:
    @wraps(operation)
    def method(
        self: "AsyncClient", /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> AsyncIterator[Result]:
        return self._many(operation(self._operations, *args, **kwargs))

    return method


class AsyncClient(Caller):
    """Calls the models of one server, or of several in turn, for programs that use asyncio.

    The methods, settings and errors are those of `Client`; what is cancelled is cancelled on the
    server too. Each event loop that calls has connections of its own, with 128 calls under way on
    each at the most; others wait. Files of pictures are read, and pictures decoded, on threads.
    """

    predict = _awaited(Operations.predict)
    embed = _awaited(Operations.embed)
    generate = _awaited(Operations.generate)
    models = _awaited(Operations.models)
    model = _awaited(Operations.model)
    health = _awaited(Operations.health)
    predict_stream = _streaming(Operations.predict_stream)
    embed_stream = _streaming(Operations.embed_stream)
    generate_stream = _streaming(Operations.generate_stream)
    predict_many = _yielding(Operations.predict_many)
    embed_many = _yielding(Operations.embed_many)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes this loop's connections, and lets no other be opened.

        Calls under way end as `Cancelled`.
        """
        self._is_closed = True
        loop = asyncio.get_running_loop()
        for pause in [one for one in self._pauses if one.get_loop() is loop and not one.done()]:
            pause.set_result(None)
        for of_loop, connections in list(self._connections.items()):
            for channel in connections.take():
                # A loop that has ended took its connections with it.
                if of_loop is loop:
                    await channel.close()

    def _begin(self, settings: Settings) -> None:
        super()._begin(settings)
        self._is_closed = False
        # Of the calls that wait for another try.
        self._pauses: set[asyncio.Future[None]] = set()
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = (
            WeakKeyDictionary()
        )
        # What was looked up last, as most programs have one loop.
        self._last: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None
        self._of_last: _Connections
        if settings.tls is not None:
            # Files that cannot be used are told before anything is called.
            settings.tls.credentials()

    def _pick(self) -> Connection[grpc.aio.Channel]:
        return self._of_loop().pick()

    def _of_loop(self) -> "_Connections":
        """Returns the connections of the loop that runs."""
        if self._is_closed:
            raise Cancelled(_CLOSED)
        loop = asyncio.get_running_loop()
        if self._last() is not loop:
            if loop not in self._connections:
                self._connections[loop] = _Connections(self._settings)
            self._last, self._of_last = ref(loop), self._connections[loop]
        return self._of_last

    async def _drive(self, flow: Flow[Result]) -> Result:
        """Does what a flow asks for, and returns what it returns."""
        given: Any = None
        failed: Exception | None = None
        try:
            while True:
                step = flow.send(given) if failed is None else flow.throw(failed)
                given = failed = None
                try:
                    given = await self._do(step)
                except Exception as error:  # noqa: BLE001  # the flow's to decide
                    failed = error
        except StopIteration as ended:
            return cast("Result", ended.value)

    def _do(self, step: Step) -> Awaitable[Any]:
        # A call's own coroutine: each one between would cost every call.
        return self._call(step) if isinstance(step, Call) else self._do_other(step)

    async def _do_other(self, step: Step) -> Any:
        match step:
            case Offload():
                return await asyncio.to_thread(step.work)
            case Pause():
                await self._pause(step.seconds)
                return None
            case Warn():
                warnings.warn(step.text, step.kind, stacklevel=_TO_CALLER)
                return None
        raise AssertionError(step)

    async def _pause(self, seconds: float) -> None:
        pause = asyncio.get_running_loop().create_future()
        self._pauses.add(pause)
        try:
            await asyncio.wait([pause], timeout=seconds)
        finally:
            self._pauses.discard(pause)
        if self._is_closed:
            raise Cancelled(_CLOSED)

    async def _call(self, step: Call) -> Any:
        connections = self._of_loop()
        turns, seconds = connections.turns, step.seconds
        if turns.locked():
            seconds = await _take_turn(turns, seconds)
        else:
            await turns.acquire()
        try:
            connection = connections.pick()
            method = getattr(connection.methods, step.method)
            answer = method(step.message, timeout=seconds, metadata=step.metadata)
            if type(step) is Begin:
                first = await answer.read()
                return answer, END if first is grpc.aio.EOF else first
            return await answer
        except grpc.RpcError as error:
            if is_unsent(error):
                connections.note_failure(connection)
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._refuse_if_closed()
            raise
        finally:
            turns.release()

    def _refuse_if_closed(self) -> None:
        """Tells what gRPC says by cancelling whoever waits: that the client was closed."""
        task = asyncio.current_task()
        if self._is_closed and not (task is not None and task.cancelling()):
            raise Cancelled(_CLOSED) from None

    async def _stream(self, stream: Stream[Result]) -> AsyncIterator[Result]:
        failed: list[Exception] = []
        call = None
        try:
            if stream.requests is None:
                message = await self._drive(stream.message(None))
                begin = Begin(stream.method, message, stream.seconds, stream.metadata)
                call, answer = await self._drive(self._operations.begin(begin))
            else:
                connection = self._pick()
                method = getattr(connection.methods, stream.method)
                messages = self._messages(stream, failed)
                call = method(messages, timeout=stream.seconds, metadata=stream.metadata)
                answer = await call.read()
            while answer is not END and answer is not grpc.aio.EOF:
                yield stream.convert(answer)
                answer = await call.read()
        except (grpc.RpcError, TensorError) as error:
            raise self._operations.explain(error, stream.seconds) from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._refuse_if_closed()
            raise
        finally:
            # Where nobody wants the rest, nothing more of it is made.
            if call is not None:
                call.cancel()
        if failed:
            raise failed[0]

    async def _messages(self, stream: Stream[Any], failed: list[Exception]) -> AsyncIterator[bytes]:
        """Yields the requests of a stream, in a task of gRPC's."""
        try:
            async for request in _iterate(stream.requests):
                yield await self._drive(stream.message(request))
        except Exception as error:  # noqa: BLE001  # raised where it is seen
            failed.append(error)

    async def _many(self, many: Many[Result]) -> AsyncIterator[Result]:
        session = _Session(self._pick, _iterate(many.items), self._do)
        flow = many.flow
        given: Any = None
        failed: Exception | None = None
        try:
            while True:
                step = flow.send(given) if failed is None else flow.throw(failed)
                given = failed = None
                if type(step) is Emit:
                    for result in step.results:
                        yield result
                    continue
                try:
                    given = await session.do(step)
                except Exception as error:  # noqa: BLE001  # the flow's to decide
                    failed = error
        except StopIteration:
            return
        except (asyncio.CancelledError, grpc.aio.UsageError):
            self._refuse_if_closed()
            raise
        finally:
            session.close()


class _Connections(Connections[grpc.aio.Channel]):
    """A loop's connections.

    Attributes:
        turns: Taken by a call while it is under way.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, _open)
        count = len(settings.targets) * settings.connections
        self.turns = asyncio.Semaphore(count * _CALLS_OF_CONNECTION)


async def _take_turn(turns: asyncio.Semaphore, seconds: float) -> float:
    """Waits until calls have ended that came before; returns the seconds that are left of a call's.

    Raises:
        TimedOut: None are.
    """
    until = time.monotonic() + seconds
    try:
        async with asyncio.timeout(seconds):
            await turns.acquire()
    except TimeoutError:
        raise TimedOut(
            f"no turn within {seconds:g} s, as other calls of this client are under way: "
            "allow more time, or give the client more connections"
        ) from None
    return until - time.monotonic()


class _Session:
    """Takes items, and sends requests one at a time over a stream.

    Args:
        pick: Gives the connection whose turn it is.
        items: What is taken.
        do: Does every other step.
    """

    def __init__(
        self,
        pick: Callable[[], Connection[grpc.aio.Channel]],
        items: AsyncIterator[Any],
        do: Callable[[Step], Awaitable[Any]],
    ) -> None:
        self._pick = pick
        self._items = items
        self._do_other = do
        self._call: Any = None
        # Answers are read as they come, and are no more than the requests under way: to write to a
        # stream that has ended would lose those, and the server's reason.
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def do(self, step: Step) -> Any:
        """Does a step.

        Raises:
            grpc.RpcError: The stream, or a call, has failed.
        """
        match step:
            case Take():
                return await anext(self._items, END)
            case Open():
                self._open(step)
            case Send():
                await self._send(step.message)
            case Receive():
                return await self._receive()
            case _:
                return await self._do_other(step)
        return None

    def close(self) -> None:
        """Ends the stream."""
        if self._reader is not None:
            self._call.cancel()
            self._reader.cancel()

    def _open(self, step: Open) -> None:
        self.close()
        # Held as long as the stream is.
        self._connection = self._pick()
        method = getattr(self._connection.methods, step.method)
        self._call = method(timeout=step.seconds, metadata=step.metadata)
        self._answers = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(self._call, self._answers))

    async def _read(self, call: Any, answers: "asyncio.Queue[Any]") -> None:
        """Puts what a stream answers in a queue, and at its end None or the error."""
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.put_nowait(answer)
            answers.put_nowait(None)
        except (grpc.RpcError, grpc.aio.UsageError) as error:
            answers.put_nowait(error)
        except asyncio.CancelledError:
            # Of the call, where the client is closed.
            answers.put_nowait(Cancelled(_CLOSED))
            raise

    async def _send(self, message: bytes | None) -> None:
        assert self._reader is not None
        if self._reader.done():
            # There is nobody to take it, which `_receive` comes to say.
            return
        if message is None:
            await self._call.done_writing()
        else:
            await self._call.write(message)

    async def _receive(self) -> Any:
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _open(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


async def _iterate(items: Items[Any] | None) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        assert items is not None
        for item in items:
            yield item
