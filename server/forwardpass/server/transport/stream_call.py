"""A call that streams: many answers, and where its caller streams too, many messages."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, Self

from forwardpass.server.transport.call import Call
from forwardpass.server.transport.task import Future, Task
from forwardpass.wire import Failure


class StreamCall(Call):
    """A call with any number of answers, and, where its caller streams too, of messages.

    Its handler returns nothing, which ends the call well. The caller's messages come by
    `async for message in call`; the loop ends with the caller's last message.

    Attributes:
        is_half_closed: Whether the caller has sent its last message.
    """

    __slots__ = ("_reading", "is_half_closed")

    def __init__(self, method: str, deadline: float | None) -> None:
        super().__init__(method, deadline)
        self._reading: Next | None = None
        self.is_half_closed = False

    @abstractmethod
    def write(self, message: bytes, written: Callable[[], None] | None = None) -> None:
        """Sends one of several answers, without waiting for it.

        Args:
            message: The answer.
            written: Called on the call's own thread once the answer has been written; it must not
                raise.
        """

    @abstractmethod
    def finish(self) -> None:
        """Ends the call well, after what was written."""

    @abstractmethod
    def read(self) -> None:
        """Asks for the caller's next message, which is then given to `deliver`."""

    @abstractmethod
    def cut(self, why: Failure) -> None:
        """Ends the call without waiting until what was written is taken; from any thread."""

    def drive_stream(self, handler: Coroutine[Any, Any, None]) -> None:
        """Runs the call's handler; when it returns, the call ends well."""
        self._begin(handler, self._finish)

    def send(self, message: bytes) -> Future[None]:
        """Sends one of several answers; awaiting the future waits until it has been written.

        A caller that does not read is then not written for.
        """
        written: Future[None] = Future(self)
        self.write(message, lambda: written.settle(None))
        return written

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> "Next":
        following = self.next_message()
        if not self.is_half_closed:
            self.read()
        return following

    def next_message(self) -> "Next":
        """Returns the caller's next message, which has to be asked for with `read`."""
        following = Next(self)
        if self.is_half_closed:
            following.settle(None)
        else:
            self._reading = following
        return following

    def deliver(self, message: bytes | None) -> None:
        """Gives the handler the message that was asked for.

        Args:
            message: The message; None after the caller's last.
        """
        reading, self._reading = self._reading, None
        if message is None:
            self.is_half_closed = True
        if reading is not None:
            reading.settle(message)

    def forget_reading(self) -> None:
        """Delivers the message that was asked for to nobody."""
        self._reading = None

    def stop_reading(self) -> None:
        """Takes no more messages: for the handler, the last one was the caller's last."""
        self.deliver(None)

    def _finish(self, task: Task[None], _: None) -> None:
        self._drop(task)
        self.finish()


class Next(Future[bytes | None]):
    """The caller's next message; awaiting it ends a loop where there is none."""

    __slots__ = ()

    _call: StreamCall

    def detach(self) -> None:
        """See `Future.detach`: its call holds it no longer either, which it holds itself."""
        super().detach()
        self._call.forget_reading()

    def __await__(self) -> Generator[Future[Any], None, bytes]:
        if not self._is_settled:
            yield self
        message, self._value = self._value, None
        if message is None:
            raise StopAsyncIteration
        return message


class House(Protocol):
    """Holds the messages of all streams."""

    def may_read(self, stream: StreamCall) -> bool:
        """Whether there is room for a message of a stream."""

    def wait(self, stream: StreamCall, again: Callable[[], None]) -> None:
        """Has `again` called, on any thread, once it is worth asking again."""


class Window:
    """A caller's messages, of which a limited number is held at a time.

    The next message is asked for when there is room, so a caller that sends faster than it is
    answered is held back.

    Args:
        call: Who sends them.
        size: How many messages are held at most. Each is held until `release`.
        house: Where there has to be room, too.
    """

    __slots__ = ("_call", "_house", "_is_full", "_room")

    def __init__(self, call: StreamCall, size: int, house: House) -> None:
        self._call = call
        self._room = size
        self._house = house
        # Whether the handler waits for a message that has not been asked for.
        self._is_full = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Next:
        call = self._call
        following = call.next_message()
        if not call.is_half_closed:
            if self._room:
                self._ask()
            else:
                self._is_full = True
        return following

    def release(self) -> None:
        """Makes room for one more message."""
        self._room += 1
        if self._is_full:
            self._is_full = False
            self._ask_if_open()

    def _ask(self) -> None:
        if self._house.may_read(self._call):
            self._room -= 1
            self._call.read()
        else:
            self._house.wait(self._call, self._ask_again)

    def _ask_again(self) -> None:
        self._call.resume(self._ask_if_open)

    def _ask_if_open(self) -> None:
        if self._call.code is None and not self._call.is_half_closed:
            self._ask()
