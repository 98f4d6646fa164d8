"""Any number of rows over streams: gathered into requests, pipelined, and each told its result."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from forwardpass.client import inputs as given
from forwardpass.client.errors import (
    ForwardpassError,
    InvalidInput,
    Overloaded,
    ServerError,
    TimedOut,
    Unavailable,
    from_stream_error,
)
from forwardpass.client.models import Signature
from forwardpass.client.retries import MAX_TRIES, Attempt, Retries, is_unsent
from forwardpass.client.settings import Pairs
from forwardpass.client.steps import (
    END,
    Emit,
    Flow,
    Offload,
    Open,
    Pause,
    Receive,
    Send,
    Take,
)
from forwardpass.wire import Array, TensorError

# Requests under way, and rows and bytes of each: enough to keep a server busy, little to hold.
_WINDOW = 8
_ROWS = 64
_BYTES = 1 << 21
# Seconds before a request is sent again that a server is too busy for; doubled each time.
_BUSY_WAIT = 0.1


@dataclass(slots=True)
class _Item:
    """A row to send.

    Attributes:
        value: Arrays by the name of their input, a picture, or a text.
        size: In bytes, about.
        layout: Rows of different ones cannot be stacked.
    """

    value: Any
    size: int
    layout: Any


@dataclass(slots=True)
class _Group:
    """The rows of one request.

    Attributes:
        items: In order.
        tries: How often a server was too busy for it.
        results: One a row, once there are.
    """

    items: list[_Item]
    tries: int = 0
    results: list[Any] | None = None


@dataclass(slots=True, kw_only=True)
class ManyRows:
    """Takes rows and emits a result for each, in order.

    Attributes:
        form: What the rows are: "inputs", "images" or "texts".
        invert: Whether to send the pictures' negatives.
        signature: The model's.
        method: The stream's name among `Methods`.
        seconds: How long a request may take to be answered.
        metadata: Sent with each stream.
        max_bytes: What a request may have.
        to_message: Makes a request's bytes of arrays, images and texts.
        convert: Makes an answer of a response.
        divide: Makes of an answer one for each row.
        retries: The client's.
        explain: Makes a `ForwardpassError` of gRPC's.
        look: Looks at pictures that were answered.
    """

    form: str
    invert: bool
    signature: Signature
    method: str
    seconds: float
    metadata: Pairs
    max_bytes: int
    to_message: Callable[[dict[str, Array], list[bytes], list[str]], bytes]
    convert: Callable[[Any], Any]
    divide: Callable[[Any, int], list[Any]]
    retries: Retries
    explain: Callable[[Exception, float], Exception]
    look: Callable[[Sequence[given.Picture], Any], Flow[None]]
    _groups: list[_Group] = field(default_factory=list, init=False)
    _unsent: deque[_Group] = field(default_factory=deque, init=False)
    _sent: deque[_Group] = field(default_factory=deque, init=False)
    _next: _Item | None = field(default=None, init=False)
    _is_over: bool = field(default=False, init=False)
    # Until when the stream takes requests; 0 where there is none.
    _open_until: float = field(default=0.0, init=False)
    _attempt: Attempt = field(init=False)
    # Streams that were closed since the last answer.
    _closings: int = field(default=0, init=False)
    _looked: bool = field(default=False, init=False)

    def run(self) -> Flow[None]:
        """Does it all.

        Raises:
            ForwardpassError: No server is there any more.
        """
        self._attempt = Attempt(self.retries, self.seconds)
        while True:
            while not self._is_over and len(self._groups) < _WINDOW:
                yield from self._gather()
            while self._groups and self._groups[0].results is not None:
                yield Emit(self._groups.pop(0).results or [])
            if not self._groups:
                if self._is_over:
                    break
                continue
            try:
                yield from self._exchange()
            except grpc.RpcError as error:
                yield from self._lose(error)
        if self._open_until:
            with suppress(grpc.RpcError):
                yield from self._end_stream()

    def _gather(self) -> Flow[None]:
        """Takes the rows of one more request."""
        most = min(self.signature.max_rows or _ROWS, _ROWS) if self.signature.batched else 1
        items: list[_Item] = []
        size = 0
        while len(items) < most:
            if self._next is None:
                yield from self._take()
            item = self._next
            if item is None or (
                items
                and (
                    size + item.size > min(_BYTES, self.max_bytes) or item.layout != items[0].layout
                )
            ):
                break
            self._next = None
            if isinstance(item.value, ForwardpassError):
                # In its place among the others.
                if items:
                    self._next = item
                else:
                    self._groups.append(_Group([item], results=[item.value]))
                    return
                break
            items.append(item)
            size += item.size
        if items:
            group = _Group(items)
            self._groups.append(group)
            self._unsent.append(group)

    def _take(self) -> Flow[None]:
        """Has the next row ready to be sent, or its error; none where there are no more."""
        value = yield Take()
        if value is END:
            self._is_over = True
            return
        try:
            self._next = yield from self._prepare(value)
        except ForwardpassError as error:
            self._next = _Item(error, 0, type(error))
        except OSError as error:
            wrong = InvalidInput(f"{error.filename}: {error.strerror}", field=self.form)
            self._next = _Item(wrong, 0, type(wrong))

    def _prepare(self, value: Any) -> Flow[_Item]:
        if self.form == "texts":
            (text,) = given.texts(value)
            return _Item(text, 4 * len(text), None)
        if self.form == "images":
            (picture,) = yield Offload(lambda: given.pictures(value, invert=self.invert))
            return _Item(picture, len(picture.data), None)
        arrays = given.to_arrays(value, lambda: self.signature.inputs)
        size = sum(array.nbytes for array in arrays.values())
        return _Item(arrays, size, [(n, a.shape, a.dtype) for n, a in arrays.items()])

    def _exchange(self) -> Flow[None]:
        """Sends what is to be sent, and takes one answer."""
        now = time.monotonic()
        if self._open_until and self._unsent and now >= self._open_until:
            # Another stream, so that each request has all of its time.
            yield from self._end_stream()
        while self._unsent:
            if not self._open_until:
                yield Open(self.method, 2 * self.seconds, self.metadata)
                self._open_until = now + self.seconds
            group = self._unsent[0]
            try:
                message = self._message(group)
            except ForwardpassError as error:
                self._unsent.popleft()
                self._refuse(group, error)
                continue
            yield Send(message)
            self._sent.append(self._unsent.popleft())
        if self._sent:
            yield from self._receive()

    def _receive(self) -> Flow[None]:
        answer = yield Receive()
        if answer is None:
            # The server has closed it, as it does with a connection that is old.
            self._open_until = 0.0
            self._unsent.extendleft(reversed(self._sent))
            self._sent.clear()
            self._closings += 1
            if self._closings == MAX_TRIES:
                raise ServerError(f"{MAX_TRIES} streams were closed without an answer or a reason")
            return
        group = self._sent.popleft()
        self._closings = 0
        self._attempt = Attempt(self.retries, self.seconds)
        if answer.WhichOneof("result") == "error":
            yield from self._take_error(group, from_stream_error(answer.error))
            return
        try:
            result = self.convert(answer.response)
        except TensorError as error:
            self._refuse(group, self.explain(error, self.seconds))
            return
        group.results = self.divide(result, len(group.items))
        if self.form == "images" and not self._looked:
            self._looked = True
            yield from self.look([item.value for item in group.items], result)

    def _take_error(self, group: _Group, error: ForwardpassError) -> Flow[None]:
        """Sends a request again, whole or row by row, or gives its rows the error."""
        if isinstance(error, (Overloaded, Unavailable)) and group.tries < MAX_TRIES - 1:
            group.tries += 1
            yield Pause(_BUSY_WAIT * (1 << group.tries))
            self._unsent.append(group)
        else:
            self._refuse(group, error)

    def _refuse(self, group: _Group, error: Exception) -> None:
        """Gives a row its error; of several rows finds out whose it is."""
        if len(group.items) == 1:
            group.results = [error]
            return
        singles = [_Group([item]) for item in group.items]
        place = self._groups.index(group)
        self._groups[place : place + 1] = singles
        self._unsent.extendleft(reversed(singles))

    def _lose(self, error: grpc.RpcError) -> Flow[None]:
        """Does what is to be done where a stream has failed."""
        self._open_until = 0.0
        explained = self.explain(error, self.seconds)
        lost = list(self._sent)
        self._sent.clear()
        wait = self._attempt.wait_after(error)
        if wait is not None:
            self._unsent.extendleft(reversed(lost))
            yield Pause(wait)
            return
        if isinstance(explained, TimedOut):
            # The first one took the time; the others come after it.
            self._unsent.extendleft(reversed(lost[1:]))
            lost = lost[:1]
        elif not lost or is_unsent(error):
            raise explained from None
        for group in lost:
            group.results = [explained] * len(group.items)

    def _end_stream(self) -> Flow[None]:
        """Takes the answers to all that was sent, and ends the stream."""
        yield Send(None)
        while self._open_until and self._sent:
            yield from self._receive()
        if self._open_until:
            self._open_until = 0.0
            yield Receive()

    def _message(self, group: _Group) -> bytes:
        values = [item.value for item in group.items]
        if self.form == "texts":
            return self.to_message({}, [], values)
        if self.form == "images":
            return self.to_message({}, [picture.data for picture in values], [])
        stacked: dict[str, Array] = {}
        for name, first in values[0].items():
            arrays = [arrays[name] for arrays in values]
            stacked[name] = np.stack(arrays) if self.signature.batched else first
        return self.to_message(stacked, [], [])
