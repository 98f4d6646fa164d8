"""Which calls are made again: those that a server refused, and those that never reached one."""

import logging
import socket
import threading
import time
from contextlib import suppress

import grpc
import pytest
from http2 import PREFACE, read_frames
from hyperframe.frame import HeadersFrame, RstStreamFrame, SettingsFrame

from forwardpass.client import Cancelled, Client, Overloaded, TimedOut, Unavailable
from forwardpass.client.methods import Methods
from forwardpass.client.retries import MAX_TRIES, Retries
from forwardpass.client.settings import Settings
from forwardpass.client.steps import Call, Pause, Step
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.wire import Failure, Reason

from .scripted import Connect, Refusal, ScriptedServer, StartScripted

BOTH_CLIENTS = True

REFUSED_STREAM = 7
ANSWER = pb.PredictResponse()
LATER = Refusal.of(Failure(Reason.QUEUE_FULL, "not now"), "60000")


@pytest.fixture
def free() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return "127.0.0.1:{1}".format(*listener.getsockname())


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


def test_a_stream_that_is_refused_is_begun_again_and_the_error_says_why(connect: Connect) -> None:
    """Servers and proxies refuse what is too many; HTTP/2 promises that nothing is done."""
    asked: list[int] = []

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(len(PREFACE), socket.MSG_WAITALL)
            connection.sendall(SettingsFrame(0).serialize())
            for frame in read_frames(connection):
                if isinstance(frame, HeadersFrame):
                    asked.append(frame.stream_id)
                    refusal = RstStreamFrame(frame.stream_id, error_code=REFUSED_STREAM)
                    connection.sendall(refusal.serialize())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        client = connect("127.0.0.1:{1}".format(*listener.getsockname()))
        with pytest.raises(Overloaded, match="takes no more calls on this connection"):
            client.predict("m")
        client.close()
        thread.join(30)
    assert len(asked) == MAX_TRIES


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


@pytest.mark.parametrize(("seconds", "patience"), [(3, 2.1), (30, 10.5), (300, 10.5)])
def test_a_call_without_a_server_is_tried_four_times_spread_over_its_time(
    free: str, seconds: float, patience: float, caplog: pytest.LogCaptureFixture
) -> None:
    with grpc.insecure_channel(free) as channel:
        refused = Methods(channel).health.future(b"").exception()
    call = Call("predict", b"", seconds, ())
    flow = Retries(Settings((free,))).again(call, refused)
    steps: list[Step] = [call, next(flow)]
    with suppress(grpc.RpcError):
        while True:
            steps.append(flow.send(None))
            steps.append(flow.throw(refused))
    assert [type(step) for step in steps] == [Call, Pause] * 3 + [Call]
    waits = [step.seconds for step in steps if isinstance(step, Pause)]
    for wait, share in zip(waits, (1, 4, 16), strict=True):
        assert 0.8 <= wait / (patience * share / 21) <= 1.2
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == f"no connection to {free} yet (Connection refused): trying for {patience} s"


def test_a_call_without_a_server_says_so(free: str, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="is the server running"):
        connect(free).predict("m", timeout=1)


def test_a_server_that_comes_in_time_is_called(
    free: str, scripted: StartScripted, connect: Connect
) -> None:
    class Starts(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not servers:
                servers.append(scripted(ANSWER, port=int(free.rpartition(":")[2])))

    servers: list[ScriptedServer] = []
    log = logging.getLogger("forwardpass.client")
    log.addHandler(starts := Starts())
    try:
        connect(free).predict("m", timeout=30)
    finally:
        log.removeHandler(starts)
    assert len(servers[0].seen) == 1


def test_health_is_asked_once(
    free: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unavailable):
        connect(free).health()
    assert not caplog.records


def test_a_client_that_is_closed_does_not_wait_for_another_try(
    scripted: StartScripted, form: type[Client]
) -> None:
    server = scripted(LATER)
    client = form(server.target, timeout=100)
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
