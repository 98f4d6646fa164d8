"""ModelStreamInfer."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Guest, Running, StartServer
from failures import read_failure
from tiny_models import EMBEDDER_WEIGHTS, Publisher, embedder

from forwardpass.server.rpc.stream import IN_FLIGHT
from forwardpass.server.transport.call import Call
from forwardpass.server.transport.stream_call import StreamCall
from forwardpass.wire import Reason

from .calls import FEATURES, Calls, emb, infer_request, raw_output
from .conftest import Hold

EXPECTED = FEATURES @ EMBEDDER_WEIGHTS


class Requests:
    """Requests that a test sends one after the other."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._queue.get, None)

    def send(self, request: Any) -> None:
        self._queue.put(request.SerializeToString())

    def close(self) -> None:
        self._queue.put(None)


@pytest.fixture
def alone(hold: Hold, repository: Publisher, start_server: StartServer) -> Running:
    """A server of the test's own, whose runs can be held."""
    repository("emb", embedder())
    return start_server()


def test_answers_come_in_order(calls: Calls) -> None:
    requests = [emb(FEATURES + n, id=str(n)).SerializeToString() for n in range(100)]
    answers = list(calls.stream(requests))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(100)]
    for n, answer in enumerate(answers):
        assert not answer.error_message
        assert answer.infer_response.model_version == "1"
        found = raw_output(answer.infer_response)
        assert found == pytest.approx((FEATURES + n) @ EMBEDDER_WEIGHTS, rel=1e-4, abs=1e-4)


def test_each_answer_says_that_it_is_the_only_one(calls: Calls) -> None:
    request = emb()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for one in (request, emb()):
        (answer,) = calls.stream([one.SerializeToString()])
        assert answer.infer_response.outputs
        assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_a_request_that_fails_is_told_so_and_the_stream_goes_on(
    calls: Calls, running: Running
) -> None:
    wrong = [
        (emb(FEATURES[:, :2], id="shape"), "has shape [2, 2], but the model takes [-1, 4]"),
        (infer_request("embb", {}, id="name"), "no model 'embb' (did you mean 'emb'?)"),
        (
            infer_request("pick", {"index": np.array([9], np.int64)}, id="value"),
            "the model refuses the values",
        ),
    ]
    messages = [b"\xff\xff", *(request.SerializeToString() for request, _ in wrong)]
    messages.append(emb(id="good").SerializeToString())
    first, *rest, last = calls.stream(messages)
    assert first.error_message == "the bytes are no inference.ModelInferRequest"
    for (request, message), answer in zip(wrong, rest, strict=True):
        assert message in answer.error_message
        assert answer.infer_response.id == request.id
        assert not answer.infer_response.outputs
    assert last.infer_response.id == "good"
    assert raw_output(last.infer_response) == pytest.approx(EXPECTED, abs=1e-5)
    admission = running.server._admission
    # gRPC's own server tells the caller before it tells us.
    assert admission.wait_idle(30)
    assert admission.bytes == 0
    for model in running.server._repository.models.values():
        for version in model.versions:
            assert version.loaded is not None
            assert not version.loaded.leases._leases


def test_an_answer_comes_before_the_next_request_is_sent(calls: Calls) -> None:
    requests = Requests()
    answers = calls.stream(requests)
    for n in range(3):
        requests.send(emb(id=str(n)))
        assert next(answers).infer_response.id == str(n)
    requests.close()
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_no_requests_no_answers(calls: Calls) -> None:
    assert list(calls.stream([])) == []


def test_a_caller_that_is_too_fast_is_held_back(
    hold: Hold, alone: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model is held, no more requests are admitted than may be in flight."""
    hold.hold()
    admission = alone.server._admission
    entered = threading.Semaphore(0)
    most = 0
    enter = admission.enter_from_stream

    def note(call: Call, size: int) -> None:
        nonlocal most
        enter(call, size)
        most = max(most, admission.calls)
        entered.release()

    monkeypatch.setattr(admission, "enter_from_stream", note)
    requests = [emb(id=str(n)).SerializeToString() for n in range(50)]
    answers = Calls(alone.channel).stream(requests)
    for _ in range(IN_FLIGHT):
        assert entered.acquire(timeout=30)
    assert admission.streams == 1
    hold.release.set()
    assert len(list(answers)) == 50
    assert most == IN_FLIGHT
    # gRPC's own server tells the caller before it tells us.
    assert admission.wait_idle(30)
    assert admission.bytes == 0


def test_a_request_waits_until_there_is_room_for_it(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused on a stream would have to be sent again by somebody who holds it."""
    repository("emb", embedder())
    running = start_server(max_in_flight=1)
    admission, guest = running.server._admission, Guest()
    asked = threading.Event()
    wait = admission.wait

    def note(stream: StreamCall, again: Callable[[], None]) -> None:
        wait(stream, again)
        asked.set()

    monkeypatch.setattr(admission, "wait", note)
    admission.enter(guest, 1)
    answers = Calls(running.channel).stream([emb(id="a").SerializeToString()])
    assert asked.wait(30)
    assert admission.calls == 1
    admission.leave(guest, 1)
    (answer,) = answers
    assert answer.infer_response.id == "a"


def test_requests_of_a_caller_that_has_gone_are_not_run(hold: Hold, alone: Running) -> None:
    hold.hold()
    version = alone.server._repository.models["emb"].versions[0]
    requests = Requests()
    answers = Calls(alone.channel).stream(requests)
    for n in range(4):
        requests.send(emb(id=str(n)))
    assert hold.busy.wait(30)
    admission = alone.server._admission
    answers.cancel()
    assert admission.wait_idle(30)
    hold.release.set()
    requests.close()
    assert version.loaded is not None
    version.loaded.leases.close()
    assert version.counters.succeeded[0] <= 1
    assert version.counters.rows <= len(FEATURES)


def test_an_inner_failure_tells_the_request_id_and_nothing_else(
    alone: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from forwardpass.server.onnx.signature import Signature

    check = Signature.check
    failing = iter([True, False])

    def fail(*arguments: Any) -> int:
        if next(failing):
            raise ValueError("secret /etc/path token=abc")
        return check(*arguments)

    monkeypatch.setattr(Signature, "check", fail)
    messages = [emb(id=name).SerializeToString() for name in "ab"]
    metadata = (("x-request-id", "my-stream"),)
    first, second = Calls(alone.channel).stream(messages, metadata=metadata)
    assert first.error_message == (
        "internal error; the server's log has it under request id my-stream"
    )
    assert not second.error_message
    output = capfd.readouterr()
    assert "secret" in output.out + output.err


def test_a_draining_server_answers_what_it_took_and_sends_the_rest_elsewhere(
    hold: Hold, alone: Running
) -> None:
    calls = Calls(alone.channel)
    idle, requests = Requests(), Requests()
    waiting, answers = calls.stream(idle), calls.stream(requests)
    idle.send(emb())
    assert next(waiting).infer_response.outputs
    hold.hold()
    requests.send(emb(id="taken"))
    assert hold.busy.wait(30)
    stopping = threading.Thread(target=alone.server.stop)
    stopping.start()
    with pytest.raises(grpc.RpcError) as caught:
        next(waiting)
    assert read_failure(caught.value).reason is Reason.SHUTTING_DOWN
    requests.send(emb(id="not taken"))
    hold.release.set()
    assert next(answers).infer_response.id == "taken"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    failure = read_failure(caught.value)
    assert failure.reason is Reason.SHUTTING_DOWN
    assert failure.retry_after is not None
    for one in (idle, requests):
        one.close()
    stopping.join()
