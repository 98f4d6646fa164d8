"""Which calls are made again: those that a server refused, and those that never reached one."""

import socket
import threading
import time

import grpc
import pytest

from forwardpass.client import Cancelled, Client, Overloaded, TimedOut, Unavailable
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.wire import Failure, Reason

from .scripted import Connect, Refusal, StartScripted

ANSWER = pb.PredictResponse()
LATER = Refusal.of(Failure(Reason.QUEUE_FULL, "not now"), "60000")


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
    ],
)
def test_what_says_no_time_to_come_again_is_not_tried_again(
    code: grpc.StatusCode, raised: type[Exception], scripted: StartScripted, connect: Connect
) -> None:
    """As a connection that breaks ends its calls: nobody has said anything."""
    server = scripted(Refusal(code, "Socket closed"), ANSWER)
    with pytest.raises(raised, match="Socket closed"):
        connect(server.target).predict("m")
    assert len(server.seen) == 1


def test_a_server_that_is_not_ready_sends_a_call_on_as_often_as_time_allows(
    scripted: StartScripted, connect: Connect
) -> None:
    """Of servers called in turn, others' calls may leave the same one to a caller each time."""
    refusals = [
        Refusal.of(Failure(Reason.MODEL_LOADING, "it is still loading"), "1"),
        Refusal.of(Failure(Reason.SHUTTING_DOWN, "it is shutting down"), "1"),
    ] * 60
    server = scripted(*refusals, ANSWER)
    connect(server.target).predict("m")
    assert len(server.seen) == 121


def test_a_server_that_does_not_become_ready_is_named_at_the_deadline(
    scripted: StartScripted, connect: Connect
) -> None:
    loading = Refusal.of(Failure(Reason.MODEL_LOADING, "it is still loading"), "100")
    server = scripted(*[loading] * 20)
    with pytest.raises(TimedOut, match="it is still loading"):
        connect(server.target).predict("m", timeout=1)
    assert len(server.seen) > 1


def test_what_grpc_core_turns_away_as_its_server_ends_is_tried_again(
    scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(Refusal(grpc.StatusCode.CANCELLED, "CANCELLED"), ANSWER)
    connect(server.target).predict("m")
    assert len(server.seen) == 2


def test_what_somebody_cancels_is_not_tried_again(
    scripted: StartScripted, connect: Connect
) -> None:
    server = scripted(Refusal(grpc.StatusCode.CANCELLED, "by a proxy"), ANSWER)
    with pytest.raises(Cancelled, match="by a proxy"):
        connect(server.target).predict("m")
    assert len(server.seen) == 1


@pytest.mark.parametrize("pushback", ["-1", "soon", "", "1.5"])
def test_a_time_that_is_none_means_never(
    pushback: str, scripted: StartScripted, connect: Connect
) -> None:
    refusal = Refusal.of(Failure(Reason.QUEUE_FULL, "not now"), pushback)
    server = scripted(refusal, ANSWER)
    with pytest.raises(Overloaded):
        connect(server.target).predict("m")
    assert len(server.seen) == 1


def test_a_call_without_a_server_is_tried_again(connect: Connect) -> None:
    """Three waits of 0.1, 0.2 and 0.4 s, less a fifth."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = "127.0.0.1:{1}".format(*free.getsockname())
    client = connect(target)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="is the server running"):
        client.predict("m")
    assert time.monotonic() - begun > 0.5


def test_health_is_asked_once(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = "127.0.0.1:{1}".format(*free.getsockname())
    client = connect(target)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        client.health()
    assert time.monotonic() - begun < 0.5


def test_a_client_that_is_closed_does_not_wait_for_another_try(scripted: StartScripted) -> None:
    server = scripted(LATER)
    client = Client(server.target, timeout=100)
    raised: list[Exception] = []

    def ask() -> None:
        with pytest.raises(Cancelled) as caught:
            client.predict("m")
        raised.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.seen:
        time.sleep(0.01)
    client.close()
    thread.join(30)
    assert raised
