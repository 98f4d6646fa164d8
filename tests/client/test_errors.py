"""Each way a call can fail is one class, with all that the server told."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from forwardpass.client import (
    AccessDenied,
    Cancelled,
    ForwardpassError,
    InvalidInput,
    InvalidSetting,
    MessageTooLarge,
    ModelNotFound,
    Overloaded,
    ServerError,
    TimedOut,
    Unavailable,
    Unsupported,
)
from forwardpass.client.errors import BY_REASON
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1 import tensor_pb2
from forwardpass.wire import CODES, Failure, Reason

from .scripted import Connect, Refusal, StartScripted

BOTH_CLIENTS = True

NEVER = "-1"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_one_class(
    reason: Reason, scripted: StartScripted, connect: Connect
) -> None:
    failure = Failure(
        reason,
        "the sentence, with ünicode",
        field="inputs.image.shape",
        metadata={"expected": "3", "got": "4"},
        retry_after=1.5,
        request_id="abc",
    )
    server = scripted(Refusal.of(failure, NEVER))
    with pytest.raises(BY_REASON[reason]) as raised:
        connect(server.target).predict("m")
    error = raised.value
    assert type(error) is BY_REASON[reason]
    assert (error.reason, error.code.value[0]) == (reason, CODES[reason])
    assert str(error) == error.message == failure.message
    assert (error.field, error.metadata) == (failure.field, failure.metadata)
    assert (error.retry_after, error.request_id) == (1.5, "abc")


def test_the_table_is_whole() -> None:
    assert set(BY_REASON) == set(Reason)
    for kind in set(BY_REASON.values()):
        # AccessDenied is of two codes.
        codes = {CODES[reason] for reason, one in BY_REASON.items() if one is kind}
        assert kind.code.value[0] in codes


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.UNAUTHENTICATED, AccessDenied),
        (grpc.StatusCode.PERMISSION_DENIED, AccessDenied),
        (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.DATA_LOSS, ServerError),
        (grpc.StatusCode.FAILED_PRECONDITION, ServerError),
    ],
)
@pytest.mark.parametrize("details", [None, b"\xff\xff not a status"])
def test_without_our_details_the_code_decides(
    code: grpc.StatusCode,
    kind: type[ForwardpassError],
    details: bytes | None,
    scripted: StartScripted,
    connect: Connect,
) -> None:
    server = scripted(Refusal(code, "a proxy's words", details, pushback=NEVER))
    with pytest.raises(kind) as raised:
        connect(server.target).predict("m")
    assert type(raised.value) is kind
    assert (raised.value.code, raised.value.reason) == (code, code.name)
    assert server.target in raised.value.message


def test_nobody_there(scripted: StartScripted, connect: Connect) -> None:
    # Port 1 of this machine is taken by no one.
    client = connect("127.0.0.1:1")
    with pytest.raises(Unavailable, match="is the server running"):
        client.predict("m")
    with pytest.raises(Unavailable):
        client.health()


def test_an_unknown_service_is_unsupported(scripted: StartScripted, connect: Connect) -> None:
    # The scripted server has no ModelService.
    with pytest.raises(Unsupported, match="is it a forwardpass server"):
        connect(scripted(pb.PredictResponse()).target).models()


def test_no_answer_in_time(scripted: StartScripted, connect: Connect) -> None:
    over = threading.Event()

    def wait() -> pb.PredictResponse:
        over.wait()
        return pb.PredictResponse()

    server = scripted(wait)
    try:
        with pytest.raises(TimedOut, match=r"within 0\.05 s"):
            connect(server.target).predict("m", timeout=0.05)
    finally:
        over.set()


def test_a_closed_client_gives_up_its_calls(scripted: StartScripted, connect: Connect) -> None:
    entered, over = threading.Event(), threading.Event()

    def wait() -> pb.PredictResponse:
        entered.set()
        over.wait()
        return pb.PredictResponse()

    client = connect(scripted(wait).target)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.predict, "m")
        entered.wait()
        client.close()
        with pytest.raises(Cancelled):
            call.result()
        over.set()


def test_a_request_over_the_limit_is_not_sent(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(pb.PredictResponse())
    client = connect(server.target, max_message_bytes=1000)
    with pytest.raises(MessageTooLarge, match="fewer rows"):
        client.predict("m", images=[bytes(2000)])
    assert not server.seen
    client.predict("m", images=[bytes(500)])


def test_an_answer_over_the_limit(scripted: StartScripted, connect: Connect) -> None:
    server = scripted(pb.PredictResponse(images=[bytes(2000)]))
    with pytest.raises(MessageTooLarge, match="larger than max"):
        connect(server.target, max_message_bytes=1000).predict("m")
    # The answer would be no smaller a second time.
    assert len(server.seen) == 1


def test_a_broken_answer_is_the_servers_fault(scripted: StartScripted, connect: Connect) -> None:
    response = pb.PredictResponse()
    response.outputs["y"].data_type = tensor_pb2.DATA_TYPE_FLOAT32
    response.outputs["y"].shape[:] = [3]
    with pytest.raises(ServerError, match="takes 12 bytes, got 0"):
        connect(scripted(response).target).predict("m")


def test_errors_travel_between_processes() -> None:
    error = InvalidInput("no", field="x", metadata={"a": "b"}, request_id="7")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InvalidInput
    assert vars(copy) == vars(error)
    assert copy.reason == Reason.INVALID_INPUT


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_finite(timeout: float, scripted: StartScripted, connect: Connect) -> None:
    with pytest.raises(InvalidSetting, match="finite"):
        connect("127.0.0.1:1", timeout=timeout)
    with pytest.raises(InvalidSetting, match="finite"):
        connect("127.0.0.1:1").predict("m", timeout=timeout)
