"""What belongs to a transport: which one serves, and what long work does to other calls."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import StartServer
from failures import read_failure
from structlog.testing import capture_logs
from tiny_models import Publisher, classifier

from forwardpass.pixels import encode_png, to_pixels
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.server.transport.completion_queue.transport import CompletionQueueTransport
from forwardpass.server.transport.select import TransportError
from forwardpass.server.transport.trailers import trailing_metadata
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ListModelsRequest, ModelReference
from forwardpass.wire import DETAILS_KEY, Failure, Reason

CLASSIFIER = ModelReference(name="clf")
PICTURE = encode_png(np.zeros((4, 4, 1), np.uint8))
PREDICT = "/forwardpass.v1.InferenceService/Predict"


@pytest.fixture
def broken_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grpcio in which a part that the completion queue needs has another name."""

    def gone(*_: object) -> None:
        raise AttributeError("module has no attribute 'SendMessageOperation'")

    monkeypatch.setattr(CompletionQueueTransport, "start", gone)


def test_what_is_kept_of_a_refusal_is_its_own() -> None:
    # Details are made once for refusals alike; these differ in what no hash has looked at.
    for waiting in ("16", "17", "16"):
        failure = Failure(Reason.QUEUE_FULL, "the queue is full", metadata={"waiting": waiting})
        details = dict(trailing_metadata(failure))[DETAILS_KEY]
        assert isinstance(details, bytes)
        assert Failure.from_details(details) == failure


def picture() -> PredictRequest:
    return PredictRequest(model=CLASSIFIER, images=[PICTURE])


@pytest.mark.usefixtures("broken_core")
def test_where_the_trial_fails_the_stock_transport_serves_and_says_so(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    with capture_logs() as lines:
        running = start_server(transport="auto")
    told = [line for line in lines if line["event"] == "stock_transport"]
    assert [line["log_level"] for line in told] == ["warning"]
    assert "SendMessageOperation" in told[0]["reason"]
    assert running.inference.Predict(picture()).model.name == "clf"


@pytest.mark.usefixtures("broken_core")
def test_asked_for_by_name_it_must_pass_its_trial(repository: Publisher) -> None:
    with pytest.raises(TransportError, match="try --transport auto"):
        Server(
            Settings(models=repository.root, port=0, metrics_port=0, transport="completion_queue")
        )


def test_decoding_keeps_no_other_call_waiting(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def held(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert may_end.wait(60)
        return to_pixels(*arguments, **options)

    monkeypatch.setattr("forwardpass.server.rpc.inputs.to_pixels", held)
    repository("clf", classifier())
    running = start_server()
    predict: Any = running.inference.Predict
    call = predict.future(picture(), timeout=60)
    assert begun.wait(60)
    assert running.models.ListModels(ListModelsRequest(), timeout=60).models
    may_end.set()
    assert call.result().model.name == "clf"


def test_t44_a_unary_call_without_a_message_is_answered(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server()
    nothing: Iterator[bytes] = iter(())
    call: Any = running.channel.stream_unary(PREDICT)
    with pytest.raises(grpc.RpcError) as caught:
        call(nothing, timeout=60)
    assert read_failure(caught.value).reason is Reason.INTERNAL


def test_an_unknown_method_is_unimplemented(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server()
    call: Any = running.channel.unary_unary("/forwardpass.v1.InferenceService/Nothing")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
