"""Handlers are driven on their call's thread, and end with it."""

import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from forwardpass.server.errors import CallError, InvalidInput
from forwardpass.server.transport.call import Ts
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.server.transport.task import CallEnded, Future, Signal
from forwardpass.wire import Failure, Reason

CANCELLED, INTERNAL = 1, 13


class LoneCall(StreamCall):
    """A call without a transport: its thread is the one that calls `run`."""

    __slots__ = ("__weakref__", "asked", "finished", "sent", "steps", "told")

    def __init__(self) -> None:
        super().__init__("/lone/Call", None)
        self.steps: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.sent: list[bytes] = []
        self.told: Failure | None = None
        self.finished = False
        self.asked = 0

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    @property
    def peer(self) -> str:
        return "here"

    def reply(self, message: bytes) -> None:
        if self._end(0):
            self.sent.append(message)

    def fail(self, failure: Failure) -> None:
        if self._end(failure.code):
            self.told = failure

    def write(self, message: bytes, written: Callable[[], None] | None = None) -> None:
        self.sent.append(message)
        if written is not None:
            self.steps.put(written)

    def finish(self) -> None:
        self.finished = self._end(0)

    def read(self) -> None:
        self.asked += 1

    def cut(self, why: Failure) -> None:
        self.fail(why)

    def resume(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        self.steps.put(partial(self._run, step, *args))

    def submit(self, step: Callable[[], None], *, waits: bool) -> None:
        threading.Thread(target=step, name="waits" if waits else "computes").start()

    def run(self) -> None:
        """Runs the next step, when there is one."""
        self.steps.get(timeout=30)()

    def leave(self) -> None:
        """The caller goes."""
        self._end(CANCELLED)

    def _run(self, step: Callable[[*Ts], None], *args: *Ts) -> None:
        if self.code is None:
            self.guard(step, *args)


@pytest.fixture
def call() -> LoneCall:
    return LoneCall()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_what_a_handler_returns_is_the_answer(call: LoneCall) -> None:
    async def answer() -> bytes:
        return b"yes"

    call.drive(answer())
    assert call.sent == [b"yes"]
    assert call.code == 0


def test_what_a_handler_raises_fails_the_call(call: LoneCall) -> None:
    async def refuse() -> bytes:
        raise InvalidInput("no", field="x")

    call.drive(refuse())
    assert call.told is not None
    assert (call.told.reason, call.told.field) == (Reason.INVALID_INPUT, "x")


def test_a_fault_is_told_by_its_request_id_alone(
    call: LoneCall, capfd: pytest.CaptureFixture[str]
) -> None:
    async def break_down() -> bytes:
        raise ValueError("secret")

    call.drive(break_down())
    assert call.told is not None
    assert call.told.code == INTERNAL
    assert call.request_id in call.told.message
    assert "secret" not in call.told.message
    output = capfd.readouterr()
    assert "secret" in output.out + output.err


def test_a_handler_goes_on_where_the_future_is_settled_from_another_thread(call: LoneCall) -> None:
    future: Future[int] = Future(call)
    threads: list[int] = []

    async def answer() -> bytes:
        value = await future
        threads.append(threading.get_ident())
        return str(value).encode()

    call.drive(answer())
    setting = threading.Thread(target=future.set, args=(7,))
    setting.start()
    call.run()
    setting.join()
    assert call.sent == [b"7"]
    assert threads == [threading.get_ident()]


def test_a_future_that_is_settled_first_is_not_waited_for(call: LoneCall) -> None:
    future: Future[int] = Future(call)
    future.settle(1)
    future.settle(2)

    async def answer() -> bytes:
        return bytes([await future])

    call.drive(answer())
    assert call.sent == [b"\1"]


def test_a_future_that_fails_raises_where_it_is_awaited(call: LoneCall) -> None:
    future: Future[int] = Future(call)

    async def answer() -> bytes:
        try:
            await future
        except KeyError as error:
            return str(error).encode()
        return b""

    call.drive(answer())
    future.fail(KeyError("gone"))
    call.run()
    assert call.sent == [b"'gone'"]


@pytest.mark.parametrize("waits", [False, True])
def test_an_offloaded_step_runs_elsewhere_and_its_result_comes_back(
    call: LoneCall, waits: bool
) -> None:
    async def answer() -> bytes:
        name = await call.offload(lambda: threading.current_thread().name, waits=waits)
        return name.encode()

    call.drive(answer())
    call.run()
    assert call.sent == [b"waits" if waits else b"computes"]


def test_an_offloaded_step_that_raises_raises_in_the_handler(call: LoneCall) -> None:
    def refuse() -> None:
        raise CallError(Reason.TASK_UNSUPPORTED, "not here")

    async def answer() -> bytes:
        await call.offload(refuse)
        return b""

    call.drive(answer())
    call.run()
    assert call.told is not None
    assert call.told.reason is Reason.TASK_UNSUPPORTED


def test_a_caller_that_leaves_ends_the_handler_where_it_waits(call: LoneCall) -> None:
    codes: list[int] = []
    released: list[str] = []
    never: Future[None] = Future(call)

    async def answer() -> bytes:
        try:
            await never
        except CallEnded as ended:
            codes.append(ended.code)
            raise
        finally:
            released.append("lease")
        return b""

    call.on_end(lambda _, code: released.append(f"counted {code}"))
    call.drive(answer())
    call.leave()
    assert codes == [CANCELLED]
    # Counted before what the handler holds is released.
    assert released == ["counted 1", "lease"]
    assert call.sent == []
    never.settle(None)


def test_a_handler_does_not_catch_the_end_of_its_call_by_chance(call: LoneCall) -> None:
    async def answer() -> bytes:
        try:
            await Future[None](call)
        except Exception:  # noqa: BLE001  # that is what is tried
            return b"caught"
        return b""

    call.drive(answer())
    call.leave()
    assert call.sent == []


def test_a_handler_that_waits_again_after_the_end_is_told_again(call: LoneCall) -> None:
    ended: list[str] = []

    async def answer() -> bytes:
        for place in ("first", "second"):
            try:
                await Future[None](call)
            except CallEnded:
                ended.append(place)
        return b""

    call.drive(answer())
    call.leave()
    assert ended == ["first", "second"]


def test_a_call_ends_once_and_who_asks_later_is_told_at_once(call: LoneCall) -> None:
    told: list[tuple[str, int]] = []
    call.on_end(lambda _, code: told.append(("early", code)))
    call.leave()
    call.reply(b"late")
    call.on_end(lambda _, code: told.append(("late", code)))
    assert told == [("early", CANCELLED), ("late", CANCELLED)]
    assert call.sent == []


def test_tasks_of_a_call_go_on_side_by_side(call: LoneCall) -> None:
    futures: list[Future[str]] = [Future(call), Future(call)]
    order: list[str] = []

    async def wait(future: Future[str]) -> str:
        order.append(await future)
        return order[-1]

    async def answer() -> bytes:
        tasks = [call.start(wait(future)) for future in futures]
        return "".join([await task for task in tasks]).encode()

    call.drive(answer())
    futures[1].settle("b")
    futures[0].settle("a")
    assert order == ["b", "a"]
    assert call.sent == [b"ab"]


def test_a_task_that_fails_ends_the_call_and_its_other_tasks(call: LoneCall) -> None:
    codes: list[int] = []

    async def fail() -> None:
        raise InvalidInput("no")

    async def answer() -> bytes:
        call.start(fail())
        try:
            await Future[None](call)
        except CallEnded as ended:
            codes.append(ended.code)
            raise
        return b""

    call.drive(answer())
    assert codes == [3]
    assert call.told is not None


def test_a_signal_that_comes_first_is_not_lost_and_is_told_once(call: LoneCall) -> None:
    signal = Signal(call)
    rounds: list[int] = []

    async def answer() -> None:
        for number in range(3):
            await signal.wait()
            rounds.append(number)

    signal.set()
    signal.set()
    call.run()
    call.run()
    call.drive_stream(answer())
    assert rounds == [0]
    signal.set_here()
    signal.set_here()
    assert rounds == [0, 1, 2]
    assert call.finished


def test_a_stream_is_read_message_by_message(call: LoneCall) -> None:
    got: list[bytes] = []

    async def answer() -> None:
        async for message in call:
            got.append(message)
            await call.send(message)

    call.drive_stream(answer())
    for number, message in enumerate((b"a", b"b"), 1):
        # Not before what was sent has been written.
        assert call.asked == number
        call.deliver(message)
        assert call.asked == number
        call.run()
    call.deliver(None)
    assert got == call.sent == [b"a", b"b"]
    assert call.finished
    assert call.is_half_closed


def test_a_stream_that_stops_reading_takes_no_more(call: LoneCall) -> None:
    got: list[bytes] = []

    async def answer() -> None:
        async for message in call:
            got.append(message)
            await call.send(message)

    call.drive_stream(answer())
    call.stop_reading()
    call.deliver(b"late")
    assert got == []
    assert call.finished


class Witness:
    """Tells whether a frame that holds it is still there."""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("how", ["answered", "refused", "broken", "failed", "left", "task failed"])
def test_nothing_of_a_call_waits_for_the_collector(how: str) -> None:
    def drive() -> list[weakref.ref[Any]]:
        call = LoneCall()
        witness = Witness()
        futures: list[Future[int]] = [Future(call), Future(call)]

        async def beside(held: Witness) -> None:
            await futures[1]
            assert held
            if how == "task failed":
                raise InvalidInput("no")

        async def answer(held: Witness) -> bytes:
            call.start(beside(held))
            value = await futures[0]
            assert held
            if how == "refused":
                raise InvalidInput("no")
            if how == "broken":
                raise ValueError("no")
            return bytes([value])

        call.drive(answer(witness))
        if how == "left":
            call.leave()
        elif how == "failed":
            futures[0].fail(CallError(Reason.QUEUE_FULL, "no"))
            call.run()
        elif how == "task failed":
            futures[1].settle(1)
        else:
            futures[0].settle(1)
        assert call.code is not None
        return [weakref.ref(call), weakref.ref(witness)]

    assert [reference() for reference in drive()] == [None, None]
