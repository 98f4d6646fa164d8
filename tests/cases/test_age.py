"""What becomes of calls when their connection comes of age."""

import queue
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import StartServer
from hyperframe.frame import DataFrame
from structlog.testing import capture_logs
from tiny_models import Publisher, picker

from forwardpass.client import Client, Unavailable
from forwardpass.client.errors import from_rpc_error
from forwardpass.v1.inference_service_pb2 import PredictStreamRequest

from .frames import Wire
from .harness import PATIENCE, Gate, assert_idle, connect, pick, picked
from .test_frames import assert_well, goodbyes

# The shortest that leave time to make a call.
SOON = {"connection_seconds": 0.2, "connection_grace_seconds": 0.2}
NO_ERROR = 0


def test_unary_calls_go_on_from_connection_to_connection(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    with capture_logs() as lines:
        running = start_server(**SOON)
        with Client(running.address, timeout=PATIENCE) as client:
            peers: set[str] = set()
            while len(peers) < 4:
                del lines[:]
                for index in range(4):
                    answer = client.predict("pick", {"index": np.array([index])})
                    assert answer.outputs["value"].tolist() == [index]
                called = [line["peer"] for line in lines if line["event"] == "call"]
                assert called
                peers.update(called)


def test_a_call_that_outlives_its_connection_is_sent_again(
    repository: Publisher, gate: Gate, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(**SOON)
    gate.shut()
    answers: list[Any] = []

    def ask() -> None:
        with Client(running.address, timeout=PATIENCE) as client:
            answers.append(client.predict("pick", {"index": np.array([3])}))

    caller = threading.Thread(target=ask)
    caller.start()
    gate.wait_submitted(2)
    gate.open()
    caller.join(PATIENCE)
    assert answers[0].outputs["value"].tolist() == [3]
    assert_idle(running)


def test_a_stream_ends_with_what_the_client_calls_unavailable(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(**SOON)
    stream: Any = running.inference.PredictStream
    # The second is opened as the first one's users are told to: anew, over the same channel.
    for _ in range(2):
        requests: queue.SimpleQueue[PredictStreamRequest | None] = queue.SimpleQueue()
        for index in range(3):
            requests.put(PredictStreamRequest(request=pick(index)))
        answers = stream(iter(requests.get, None), timeout=PATIENCE)
        assert [picked(next(answers).response) for _ in range(3)] == [[0], [1], [2]]
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        requests.put(None)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(from_rpc_error(caught.value, running.address, PATIENCE), Unavailable)
    assert_idle(running)


def test_t44_a_call_whose_message_never_comes_is_let_go(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(**SOON)
    with Wire(running) as wire:
        wire.greet()
        wire.send(wire.ask(1), DataFrame(1, b"\0\0\0\0\x09abc"))
        # All that comes until it hangs up. First it only says that it takes no more calls.
        assert goodbyes(list(wire.frames()))[0] == NO_ERROR
    with connect(running) as other:
        assert_well(running, other)
