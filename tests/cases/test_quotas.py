"""T150 to T154: a token's own bounds, and the server's shares, by token and not by connection."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of, read_failure
from onnx import TensorProto
from tiny_models import Publisher, echo, picker

from forwardpass.server.process import watched_files
from forwardpass.v1.inference_service_pb2 import PredictStreamRequest, PredictStreamResponse
from forwardpass.v1.model_service_pb2 import ListModelsRequest
from forwardpass.wire import Failure, Reason, from_tensor

from .harness import PATIENCE, Gate, assert_idle, connect, metric, pick, picked, predict, stub_of

PREDICT = "/forwardpass.v1.InferenceService/Predict"
PREDICT_STREAM = "/forwardpass.v1.InferenceService/PredictStream"
DENIED = "forwardpass_access_denied_total"


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of tokens: each is the name with "-s3cret" behind it."""

    def write(**bounds: str) -> Path:
        path = tmp_path / "tokens.toml"
        path.write_text(
            "".join(
                f'[[tokens]]\nname = "{name}"\ntoken = "{name}-s3cret"\n'
                f'permissions = ["infer", "read"]\n{bound}\n'
                for name, bound in bounds.items()
            )
        )
        return path

    return write


def by(name: str) -> dict[str, Any]:
    """Returns the options of a call with the token of that name."""
    return {"metadata": (("authorization", f"Bearer {name}-s3cret"),), "timeout": PATIENCE}


@contextmanager
def connections(running: Running, count: int) -> Iterator[list[Any]]:
    """Gives stubs, each with a connection of its own."""
    channels = [connect(running) for _ in range(count)]
    try:
        yield [stub_of(channel) for channel in channels]
    finally:
        for channel in channels:
            channel.close()


def until_answered(call: Callable[[], Any]) -> Any:
    """Returns an answer once there is room: that a call has ended is known a little later."""
    for _ in range(100 * PATIENCE):
        try:
            return call()
        except grpc.RpcError as error:
            if read_failure(error).reason is not Reason.QUEUE_FULL:
                raise
            threading.Event().wait(0.01)
    raise AssertionError("there is no room")


def echoed(floats: int) -> Any:
    """Returns a request of four bytes for each float, and a few beside."""
    return predict("echo", {"x": np.zeros(floats, np.float32)})


class Requests:
    """A PredictStream whose requests are sent one by one.

    Args:
        channel: Where to.
        name: Whose token it carries.
    """

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        method: Any = channel.stream_stream(
            PREDICT_STREAM, response_deserializer=PredictStreamResponse.FromString
        )
        self._answers = method(iter(self._requests.get, None), **by(name))

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put(PredictStreamRequest(request=request).SerializeToString())

    def answer(self) -> PredictStreamResponse:
        found: PredictStreamResponse = next(self._answers)
        return found

    def close(self) -> None:
        """Sends no more; there must be no more answers."""
        self._requests.put(None)
        assert list(self._answers) == []

    def failure(self) -> Failure:
        with pytest.raises(grpc.RpcError) as caught:
            next(self._answers)
        self._requests.put(None)
        return read_failure(caught.value)


def test_t150_a_token_has_so_many_calls_over_all_its_connections(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
) -> None:
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 2", web=""))
    gate.shut()
    with connections(running, 3) as (one, other, third):
        held = [stub.Predict.future(pick(1), **by("jobs")) for stub in (one, other)]
        gate.wait_submitted(2)
        for stub in (one, other, third):
            failure = failure_of(stub.Predict, pick(1), **by("jobs"))
            assert failure.reason is Reason.QUEUE_FULL
            assert failure.message.startswith(
                "the token 'jobs' has 2 calls in flight, as many as it may have (its max_in_flight)"
            )
            assert "ask the operator" in failure.message
            assert "s3cret" not in failure.message
            assert failure.metadata == {"token": "jobs"}
            assert failure.retry_after == pytest.approx(0.1)
        # Another token is not concerned, on the same connection; nor is what runs no model.
        held += [one.Predict.future(pick(2), **by("web")) for _ in range(4)]
        gate.wait_submitted(4)
        assert running.models.ListModels(ListModelsRequest(), **by("jobs")).models
        assert metric(running, DENIED, reason="calls") == 3
        gate.open()
        assert [picked(call.result()) for call in held] == [[1]] * 2 + [[2]] * 4
        assert picked(until_answered(lambda: third.Predict(pick(3), **by("jobs")))) == [3]
    assert_idle(running)


def test_t150_a_call_takes_its_place_before_its_message_is_received(
    repository: Publisher, start_server: StartServer, tokens: Callable[..., Path]
) -> None:
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 1"))
    begun: Any = running.channel.stream_stream(PREDICT)
    never: SimpleQueue[bytes | None] = SimpleQueue()
    first = begun(iter(never.get, None), **by("jobs"))
    while not metric(running, "grpc_server_started_total", grpc_method="Predict"):
        threading.Event().wait(0.01)
    # Refused without a byte of it.
    second = begun(iter(never.get, None), **by("jobs"))
    with pytest.raises(grpc.RpcError) as caught:
        next(second)
    assert "'jobs' has 1 calls" in read_failure(caught.value).message
    # It ends without its message, as a call may that is broken.
    never.put(None)
    never.put(None)
    with pytest.raises(grpc.RpcError):
        next(first)
    call: Any = running.inference.Predict
    assert picked(until_answered(lambda: call(pick(1), **by("jobs")))) == [1]


@pytest.mark.parametrize("end", ["cancelled", "expired", "refused", "gone"])
def test_t150_a_call_gives_its_place_back_whatever_ends_it(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
    end: str,
) -> None:
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 1\nmax_in_flight_bytes = 1000"))
    call: Any = running.inference.Predict
    gate.shut()
    with connect(running) as channel:
        if end == "refused":
            failure_of(call, predict("nothing", {}), **by("jobs"))
        else:
            seconds = {"timeout": 0.2} if end == "expired" else {}
            held = stub_of(channel).Predict.future(pick(0), **{**by("jobs"), **seconds})
            gate.wait_submitted()
            if end == "cancelled":
                held.cancel()
    gate.open()
    assert picked(until_answered(lambda: call(pick(1), **by("jobs")))) == [1]
    assert_idle(running)


def test_t151_a_token_has_so_many_bytes(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(tokens_file=tokens(jobs="max_in_flight_bytes = 4_000", web=""))
    call: Any = running.inference.Predict
    gate.shut()
    held = [call.future(echoed(700), **by("jobs"))]
    gate.wait_submitted()
    failure = failure_of(call, echoed(700), **by("jobs"))
    assert failure.reason is Reason.QUEUE_FULL
    assert "more would exceed the 4000 that they may hold (its max_in_flight_b" in failure.message
    assert failure.retry_after == pytest.approx(0.1)
    # One that is too long in any case is not to be tried again.
    failure = failure_of(call, echoed(1_000), **by("jobs"))
    assert failure.reason is Reason.QUEUE_FULL
    assert "the token 'jobs' may hold 4000 bytes together" in failure.message
    assert "send less" in failure.message
    assert failure.retry_after is None
    held += [call.future(echoed(10), **by("jobs")), call.future(echoed(5_000), **by("web"))]
    gate.wait_submitted(2)
    assert metric(running, DENIED, reason="bytes") == 2
    gate.open()
    assert [len(from_tensor(one.result().outputs["y"])) for one in held] == [700, 10, 5_000]
    until_answered(lambda: call(echoed(900), **by("jobs")))
    assert_idle(running)


def test_t151_what_a_request_becomes_is_the_tokens_too(
    repository: Publisher, start_server: StartServer, tokens: Callable[..., Path]
) -> None:
    repository("text", echo(TensorProto.STRING, ["n"]))
    running = start_server(tokens_file=tokens(jobs="max_in_flight_bytes = 100_000", web=""))
    call: Any = running.inference.Predict
    texts = predict("text", {"x": np.full(2_000, "a", object)})
    failure = failure_of(call, texts, **by("jobs"))
    assert failure.reason is Reason.QUEUE_FULL
    assert "max_in_flight_bytes" in failure.message
    assert call(texts, **by("web")).outputs
    assert_idle(running)


def test_t151_a_request_of_a_stream_that_is_too_long_fails_alone(
    repository: Publisher, start_server: StartServer, tokens: Callable[..., Path]
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(tokens_file=tokens(jobs="max_in_flight_bytes = 4_000"))
    stream = Requests(running.channel, "jobs")
    stream.send(echoed(10), echoed(2_000), echoed(20))
    lengths = [10, None, 20]
    for length in lengths:
        answer = stream.answer()
        if length is None:
            assert answer.error.reason == Reason.QUEUE_FULL
            assert "the token 'jobs' may hold 4000 bytes together" in answer.error.message
        else:
            assert len(from_tensor(answer.response.outputs["y"])) == length
    stream.close()
    assert metric(running, DENIED, reason="bytes") == 1
    assert_idle(running)


def test_t152_a_stream_is_not_read_while_its_token_has_no_room(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
) -> None:
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 2", web=""))
    gate.shut()
    stream, other = Requests(running.channel, "jobs"), Requests(running.channel, "web")
    stream.send(*(pick(number % 4) for number in range(10)))
    gate.wait_submitted(2)
    other.send(*(pick(0) for _ in range(4)))
    gate.wait_submitted(4)
    call: Any = running.inference.Predict
    assert "'jobs' has 2 calls in flight" in failure_of(call, pick(0), **by("jobs")).message
    assert len(gate.jobs) == 6
    gate.open()
    for number in range(10):
        assert picked(stream.answer().response) == [number % 4]
    for _ in range(4):
        assert picked(other.answer().response) == [0]
    stream.close()
    other.close()
    assert_idle(running)


def test_t152_a_token_has_as_many_streams_as_calls(
    repository: Publisher, start_server: StartServer, tokens: Callable[..., Path]
) -> None:
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 2", web=""))
    with connect(running) as channel:
        streams = [Requests(running.channel, "jobs"), Requests(channel, "jobs")]
        for stream in streams:
            stream.send(pick(1))
            assert picked(stream.answer().response) == [1]
        failure = Requests(channel, "jobs").failure()
        assert failure.reason is Reason.QUEUE_FULL
        assert "the token 'jobs' has 2 streams open, as many as it may have" in failure.message
        assert metric(running, DENIED, reason="streams") == 1
        streams.append(Requests(channel, "web"))
        # Streams that send nothing take no place of a call.
        call: Any = running.inference.Predict
        assert picked(until_answered(lambda: call(pick(2), **by("jobs")))) == [2]
        streams.pop(0).close()
        streams.append(Requests(channel, "jobs"))
        for stream in streams:
            stream.send(pick(3))
            assert picked(stream.answer().response) == [3]
            stream.close()
    assert_idle(running)


def test_t153_the_servers_places_are_shared_by_token_and_not_by_connection(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
) -> None:
    """As behind a proxy: one connection may be of many callers, and one caller has many."""
    repository("pick", picker())
    running = start_server(tokens_file=tokens(heavy="", light=""), max_in_flight=8)
    gate.shut()
    with connections(running, 3) as (one, other, third):
        held = [stub.Predict.future(pick(1), **by("heavy")) for stub in (one, other) * 4]
        gate.wait_submitted(8)
        # A connection of its own is no other caller.
        assert failure_of(third.Predict, pick(1), **by("heavy")).reason is Reason.QUEUE_FULL
        # What is kept for others is for others by their token, on the same connection.
        held.append(one.Predict.future(pick(2), **by("light")))
        gate.wait_submitted()
        gate.open()
        assert [picked(call.result()) for call in held] == [[1]] * 8 + [[2]]
    assert_idle(running)


def test_t154_bounds_that_change_hold_at_once(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    tokens: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)
    repository("pick", picker())
    running = start_server(tokens_file=tokens(jobs="max_in_flight = 1"))
    call: Any = running.inference.Predict
    gate.shut()
    held = [call.future(pick(1), **by("jobs"))]
    gate.wait_submitted()
    assert "has 1 calls" in failure_of(call, pick(1), **by("jobs")).message
    tokens(jobs="max_in_flight = 2")
    held.append(call.future(pick(2), **by("jobs")))
    gate.wait_submitted()
    tokens(jobs="max_in_flight = 1")
    assert "has 2 calls" in failure_of(call, pick(1), **by("jobs")).message
    tokens(jobs="")
    held.append(call.future(pick(3), **by("jobs")))
    gate.wait_submitted()
    gate.open()
    assert [picked(one.result()) for one in held] == [[1], [2], [3]]
    assert_idle(running)
