"""The client: numpy in, numpy out, one method a call."""

import itertools
import threading
import warnings
from collections.abc import AsyncIterable, Callable, Iterator
from functools import wraps
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import grpc

from forwardpass.client.caller import Caller
from forwardpass.client.channel import Options
from forwardpass.client.connection import Connections
from forwardpass.client.errors import Cancelled, InvalidInput
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
# Of warnings: from where they are raised to the line that called the client.
_TO_CALLER = 4


def _blocking(
    operation: Callable[Concatenate[Operations, Arguments], Flow[Result]],
) -> Callable[Concatenate["Client", Arguments], Result]:
    @wraps(operation)
    def method(self: "Client", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self._drive(operation(self._operations, *args, **kwargs))

    return method


def _streaming(
    operation: Callable[Concatenate[Operations, Arguments], Stream[Result]],
) -> Callable[Concatenate["Client", Arguments], Iterator[Result]]:
    @wraps(operation)
    def method(
        self: "Client", /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Iterator[Result]:
        return self._stream(operation(self._operations, *args, **kwargs))

    return method


def _yielding(
    operation: Callable[Concatenate[Operations, Arguments], Many[Result]],
) -> Callable[Concatenate["Client", Arguments], Iterator[Result]]:
    @wraps(operation)
    def method(
        self: "Client", /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Iterator[Result]:
        return self._many(operation(self._operations, *args, **kwargs))

    return method


class Client(Caller):
    """Calls the models of one server, or of several in turn.

    Connects at the first call, and again whenever the connection is lost. May be used by several
    threads at once, and be pickled: what is pickled are its settings. A process that was forked
    after a first call has no use for it, or any other (`Forked`). Every call has a deadline; a call
    that meets a full queue, an unready server or none is tried up to four times within it.
    One whose connection breaks while a server has it is not: it may be what ended the server.

    Each method raises a `ForwardpassError`, whose class tells why: see `forwardpass.client.errors`.
    """

    predict = _blocking(Operations.predict)
    embed = _blocking(Operations.embed)
    generate = _blocking(Operations.generate)
    models = _blocking(Operations.models)
    model = _blocking(Operations.model)
    health = _blocking(Operations.health)
    predict_stream = _streaming(Operations.predict_stream)
    embed_stream = _streaming(Operations.embed_stream)
    generate_stream = _streaming(Operations.generate_stream)
    predict_many = _yielding(Operations.predict_many)
    embed_many = _yielding(Operations.embed_many)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way end as `Cancelled`."""
        self._closed.set()
        for channel in self._connections.take():
            channel.close()

    def _begin(self, settings: Settings) -> None:
        super()._begin(settings)
        self._closed = threading.Event()
        self._connections = Connections(settings, _open)

    def _drive(self, flow: Flow[Result]) -> Result:
        """Does what a flow asks for, and returns what it returns."""
        given: Any = None
        failed: Exception | None = None
        try:
            while True:
                step = flow.send(given) if failed is None else flow.throw(failed)
                given = failed = None
                try:
                    given = self._call(step) if isinstance(step, Call) else self._do(step)
                except Exception as error:  # noqa: BLE001  # the flow's to decide
                    failed = error
        except StopIteration as ended:
            return cast("Result", ended.value)

    def _do(self, step: Step) -> Any:
        match step:
            case Call():
                return self._call(step)
            case Offload():
                return step.work()
            case Pause():
                if self._closed.wait(step.seconds):
                    raise Cancelled(_CLOSED)
                return None
            case Warn():
                warnings.warn(step.text, step.kind, stacklevel=_TO_CALLER)
                return None
        raise AssertionError(step)

    def _call(self, step: Call) -> Any:
        connection = self._connections.pick()
        method = getattr(connection.methods, step.method)
        try:
            answer = method(step.message, timeout=step.seconds, metadata=step.metadata)
            return (answer, next(answer, END)) if type(step) is Begin else answer
        except grpc.RpcError as error:
            if is_unsent(error):
                self._connections.note_failure(connection)
            raise
        except ValueError:
            self._refuse_if_closed()
            raise

    def _refuse_if_closed(self) -> None:
        """Tells what gRPC says in a bare ValueError: that another thread has closed the channel."""
        if self._connections.is_closed:
            raise Cancelled(_CLOSED) from None

    def _stream(self, stream: Stream[Result]) -> Iterator[Result]:
        failed: list[Exception] = []
        call = None
        try:
            if stream.requests is None:
                message = self._drive(stream.message(None))
                begin = Begin(stream.method, message, stream.seconds, stream.metadata)
                call, first = self._drive(self._operations.begin(begin))
                answers = itertools.chain([] if first is END else [first], call)
            else:
                connection = self._connections.pick()
                method = getattr(connection.methods, stream.method)
                messages = self._messages(stream, failed)
                call = answers = method(messages, timeout=stream.seconds, metadata=stream.metadata)
            for answer in answers:
                yield stream.convert(answer)
        except (grpc.RpcError, TensorError) as error:
            raise self._operations.explain(error, stream.seconds) from None
        except ValueError:
            self._refuse_if_closed()
            raise
        finally:
            # Where nobody wants the rest, nothing more of it is made.
            if call is not None:
                call.cancel()
        if failed:
            raise failed[0]

    def _messages(self, stream: Stream[Any], failed: list[Exception]) -> Iterator[bytes]:
        """Yields the requests of a stream, on a thread of gRPC's."""
        try:
            for request in _iterate(stream.requests):
                yield self._drive(stream.message(request))
        except Exception as error:  # noqa: BLE001  # raised where it is seen
            failed.append(error)

    def _many(self, many: Many[Result]) -> Iterator[Result]:
        session = _Session(self._connections, _iterate(many.items), self._do)
        flow = many.flow
        given: Any = None
        failed: Exception | None = None
        try:
            while True:
                step = flow.send(given) if failed is None else flow.throw(failed)
                given = failed = None
                if type(step) is Emit:
                    yield from step.results
                    continue
                try:
                    given = session.do(step)
                except Exception as error:  # noqa: BLE001  # the flow's to decide
                    failed = error
        except StopIteration:
            return
        except ValueError:
            self._refuse_if_closed()
            raise
        finally:
            session.close()


class _Session:
    """Takes items, and sends requests one at a time over a stream.

    Args:
        connections: The client's.
        items: What is taken.
        do: Does every other step.
    """

    def __init__(
        self,
        connections: Connections[grpc.Channel],
        items: Iterator[Any],
        do: Callable[[Step], Any],
    ) -> None:
        self._connections = connections
        self._items = items
        self._do_other = do
        self._call: Any = None
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()

    def do(self, step: Step) -> Any:
        """Does a step.

        Raises:
            grpc.RpcError: The stream, or a call, has failed.
        """
        match step:
            case Take():
                return next(self._items, END)
            case Open():
                self._open(step)
            case Send():
                self._messages.put(step.message)
            case Receive():
                return next(self._call, None)
            case _:
                return self._do_other(step)
        return None

    def close(self) -> None:
        """Ends the stream, and the thread of gRPC's that waits for more requests."""
        if self._call is not None:
            self._call.cancel()
            self._messages.put(None)

    def _open(self, step: Open) -> None:
        self.close()
        self._messages = SimpleQueue()
        # Held as long as the stream is.
        self._connection = self._connections.pick()
        method = getattr(self._connection.methods, step.method)
        messages = iter(self._messages.get, None)
        self._call = method(messages, timeout=step.seconds, metadata=step.metadata)


def _open(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def _iterate(items: Items[Any] | None) -> Iterator[Any]:
    if isinstance(items, AsyncIterable):
        raise InvalidInput("asynchronous iterables are for AsyncClient", field="inputs")
    assert items is not None
    return iter(items)
