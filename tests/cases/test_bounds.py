"""T104 to T107: how long a request is worked on, what it becomes, and what is held meanwhile."""

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import StartServer
from failures import failure_of
from onnx import TensorProto
from PIL import Image
from server.test_process import serving
from tiny_models import Publisher, classifier, echo, maker

from forwardpass.pixels import to_pixels
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictStreamRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Reason

from .harness import PATIENCE, Gate, assert_idle, metric, predict, send

MIB = 1 << 20
# The most that the model takes.
MANY = 64


def pictures(count: int, side: int = 4) -> PredictRequest:
    """Returns a request of pictures, which become 16 bytes each."""
    png = io.BytesIO()
    Image.new("L", (side, side)).save(png, "PNG")
    return PredictRequest(model=ModelReference(name="clf"), images=[png.getvalue()] * count)


def strings(count: int) -> PredictRequest:
    """Returns a request of short strings, which become 64 bytes each."""
    return predict("text", {"x": np.array(["a"] * count, object)})


def test_t104_decoding_stops_when_the_caller_has_gone(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over, never = threading.Event(), threading.Event(), threading.Event()
    decode = InputReader._decode
    decoded = 0

    def slow(*arguments: Any) -> Any:
        nonlocal decoded
        decoded += 1
        begun.set()
        # All of them would take six seconds.
        never.wait(0.1)
        return to_pixels(*arguments)

    def watched(reader: InputReader, *arguments: Any) -> Any:
        try:
            return decode(reader, *arguments)
        finally:
            over.set()

    monkeypatch.setattr("forwardpass.server.rpc.inputs.to_pixels", slow)
    monkeypatch.setattr(InputReader, "_decode", watched)
    repository("clf", classifier())
    running = start_server()
    call = send(running, pictures(MANY))
    assert begun.wait(PATIENCE)
    call.cancel()
    assert over.wait(PATIENCE)
    assert decoded < MANY
    assert_idle(running)


def test_t104_pictures_of_a_request_have_a_bound_together(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server(max_image_pixels=100)
    assert running.inference.Predict(pictures(8, 10)).outputs
    failure = failure_of(running.inference.Predict, pictures(9, 10))
    assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "images")
    assert "images[0] to images[8] have more than 800 pixels together" in failure.message
    assert_idle(running)


def test_t105_what_a_request_becomes_is_counted_before_it_does(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    repository("text", echo(TensorProto.STRING, ["n"]))
    for most, few, many in (
        (1023, pictures(4), pictures(MANY)),
        (70_000, strings(1000), strings(1100)),
    ):
        running = start_server(max_in_flight_bytes=most)
        failure = failure_of(running.inference.Predict, many)
        assert failure.reason is Reason.INVALID_INPUT
        assert "(max_in_flight_bytes); send fewer rows" in failure.message
        assert running.inference.Predict(few).outputs
        assert_idle(running)


def test_t106_a_run_takes_no_more_than_runs_may(repository: Publisher, transport: str) -> None:
    """In a process of its own: all servers of one share what runs may take."""
    repository("maker", maker())
    flags = ("--transport", transport, "--threads", "1", "--run-memory-bytes", str(64 * MIB))
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(
            server.address, [("grpc.max_receive_message_length", -1)]
        ) as channel:
            stub: Any = InferenceServiceStub(channel)

            def make(size: int) -> PredictRequest:
                return predict("maker", {"shape": np.array([size // 4])})

            for _ in range(2):
                failure = failure_of(stub.Predict, make(80 * MIB), timeout=PATIENCE)
                assert failure.reason is Reason.QUEUE_FULL
                assert f"all runs at a time have {64 * MIB} (run_memory_bytes)" in failure.message
                failure = failure_of(stub.Predict, make(20 * MIB), timeout=PATIENCE)
                assert failure.reason is Reason.QUEUE_FULL
                assert f"the outputs have {20 * MIB} bytes" in failure.message
                # What earlier runs took, in pieces of other sizes, is no hindrance.
                for size in (6, 9, 12, 15):
                    assert stub.Predict(make(size * MIB), timeout=PATIENCE).outputs


@pytest.mark.usefixtures("no_inline_runs")
def test_t107_the_gauge_has_seen_all_that_requests_hold(
    gate: Gate, repository: Publisher, start_server: StartServer
) -> None:
    """Of a unary call, of each message of a stream, and of what pictures have become."""
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    repository("clf", classifier())
    running = start_server()
    gate.shut()
    floats = predict("echo", {"x": np.zeros(1 << 18, np.float32)})
    encoded = pictures(8)
    calls = [send(running, floats), send(running, encoded)]
    streamed = PredictStreamRequest(request=floats)
    ended = threading.Event()

    def requests() -> Iterator[PredictStreamRequest]:
        yield from [streamed] * 2
        ended.wait(PATIENCE)

    stream = running.inference.PredictStream(requests(), timeout=PATIENCE)
    expected = floats.ByteSize() + encoded.ByteSize() + 8 * 16 + 2 * streamed.ByteSize()
    until = time.monotonic() + PATIENCE
    while (held := metric(running, "forwardpass_request_bytes_in_flight")) != expected:
        assert time.monotonic() < until, (held, expected)
    # Two run, and two wait for the first of the same model.
    gate.wait_started(2)
    assert metric(running, "forwardpass_request_bytes_in_flight") == expected
    gate.open()
    assert len([next(stream), next(stream)]) == 2
    ended.set()
    assert not list(stream)
    for call in calls:
        assert call.result().outputs
    assert_idle(running)
