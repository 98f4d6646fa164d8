"""Streams: pipelined, answered in order, held back, ended at drain."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import read_failure
from onnx import TensorProto
from tiny_models import EMBEDDER_WEIGHTS, Publisher, classifier, echo, embedder, generator, stepper

from forwardpass.server.native.streams import EmbedStream
from forwardpass.server.onnx.session import Session
from forwardpass.server.rpc.schema import PREDICT as PREDICT_SCHEMA
from forwardpass.server.rpc.stream import IN_FLIGHT
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    GenerateRequest,
    GenerateStreamRequest,
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
)
from forwardpass.v1.model_service_pb2 import ListModelsRequest, ModelReference
from forwardpass.wire import Reason, from_tensor, to_tensor

# Rows of floats: two of the second and of the last are not parsed.
LONG = PREDICT_SCHEMA.scanned_from
LONG_AND_SHORT = (3, LONG // 4, 5, LONG // 4 + 1)
EMBEDDER, STEPPER, GENERATOR = (ModelReference(name=name) for name in ("emb", "step", "gen"))


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("clf", classifier())
    repository("emb", embedder())
    repository("gen", generator())
    repository("step", stepper())
    return start_server()


def step(x: float, *, reset: bool = False, model: ModelReference | None = STEPPER) -> Any:
    values = to_tensor(np.array([[x]], np.float32))
    request = PredictRequest(model=model, inputs={"x": values}, outputs=["y"])
    return PredictStreamRequest(request=request, reset_state=reset)


def value(response: PredictStreamResponse) -> float:
    assert list(response.response.outputs) == ["y"]
    return float(from_tensor(response.response.outputs["y"])[0, 0])


def test_answers_come_in_order_and_each_is_its_own(running: Running) -> None:
    batches = [np.full((rows % 5 + 1, 4), rows, np.float32) for rows in range(100)]
    requests = [
        EmbedStreamRequest(
            request=EmbedRequest(
                model=EMBEDDER if index == 0 else None, inputs={"features": to_tensor(batch)}
            )
        )
        for index, batch in enumerate(batches)
    ]
    answers = list(running.inference.EmbedStream(iter(requests)))
    assert len(answers) == 100
    for batch, answer in zip(batches, answers, strict=True):
        vectors = from_tensor(answer.response.embeddings)
        assert vectors == pytest.approx(batch @ EMBEDDER_WEIGHTS, rel=1e-5)


def test_requests_that_are_not_parsed_whole_are_answered_like_others(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("echo", echo(TensorProto.FLOAT, ["n", "width"]))
    batches = [np.arange(width * 2, dtype=np.float32).reshape(2, width) for width in LONG_AND_SHORT]
    requests = [PredictRequest(inputs={"x": to_tensor(batch)}) for batch in batches]
    requests[0].model.name = "echo"
    broken = PredictRequest()
    broken.CopyFrom(requests[1])
    broken.inputs["x"].shape[:] = [3, 4]
    streamed = [PredictStreamRequest(request=request) for request in (*requests, broken)]
    *answers, last = start_server().inference.PredictStream(iter(streamed))
    for batch, answer in zip(batches, answers, strict=True):
        assert np.array_equal(from_tensor(answer.response.outputs["y"]), batch)
    assert last.error.reason == Reason.INVALID_INPUT
    assert "shape [3, 4] takes 48 bytes, got 131072" in last.error.message


def test_a_request_that_fails_is_answered_and_the_stream_goes_on(running: Running) -> None:
    wrong = PredictStreamRequest(request=PredictRequest(model=STEPPER))
    nowhere = step(1, model=ModelReference(name="stepp"))
    answers = list(running.inference.PredictStream(iter([step(1), wrong, nowhere, step(2)])))
    assert [answer.WhichOneof("result") for answer in answers] == [
        *("response", "error", "error", "response")
    ]
    assert answers[1].error.reason == Reason.INVALID_INPUT
    assert answers[1].error.code == 3
    assert "input 'x' is missing" in answers[1].error.message
    assert answers[2].error.reason == Reason.MODEL_NOT_FOUND
    assert value(answers[3]) == 6


def test_bytes_that_are_no_request_fail_alone(running: Running) -> None:
    call: Any = running.channel.stream_stream("/forwardpass.v1.InferenceService/PredictStream")
    messages = [step(1).SerializeToString(), b"\xff\xff", step(2).SerializeToString()]
    answers = [PredictStreamResponse.FromString(answer) for answer in call(iter(messages))]
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]


def test_a_step_model_remembers_along_its_stream_and_nowhere_else(running: Running) -> None:
    requests = [step(1), step(2), step(3), step(10, reset=True), step(1)]
    streams = [running.inference.PredictStream(iter(requests)) for _ in range(3)]
    for stream in streams:
        assert [value(answer) for answer in stream] == [2, 6, 12, 20, 22]


def test_a_state_that_the_caller_gives_is_taken(running: Running) -> None:
    given = step(1)
    given.request.inputs["total"].CopyFrom(to_tensor(np.array([[100]], np.float32)))
    answers = list(running.inference.PredictStream(iter([step(1), given, step(1)])))
    assert [value(answer) for answer in answers] == [2, 202, 204]


def test_generate_stream_sends_what_generate_sends(running: Running) -> None:
    request = GenerateRequest(model=GENERATOR, seed=5, count=40, timing=True)
    whole = from_tensor(running.inference.Generate(request).samples)
    parts = list(running.inference.GenerateStream(GenerateStreamRequest(request=request)))
    assert [part.index for part in parts] == [0, 16, 32]
    assert all(part.part.seed == 5 and part.part.HasField("timing") for part in parts)
    together = np.concatenate([from_tensor(part.part.samples) for part in parts])
    assert (together == whole).all()


@pytest.mark.usefixtures("no_inline_runs")
def test_a_caller_that_is_too_fast_is_held_back(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model is held, no more of a stream is read than may be in flight."""
    enough, may_run = threading.Event(), threading.Event()
    run, parse = Session.run, EmbedStream.parse
    taken: list[int] = []

    def held(self: Session, *arguments: Any) -> Any:
        may_run.wait()
        return run(self, *arguments)

    def counted(self: EmbedStream, message: bytes) -> Any:
        if not may_run.is_set():
            taken.append(1)
            if len(taken) == IN_FLIGHT:
                enough.set()
        return parse(self, message)

    # Before the server starts: its workers keep the method that they were made with.
    monkeypatch.setattr(Session, "run", held)
    monkeypatch.setattr(EmbedStream, "parse", counted)
    may_run.set()
    repository("emb", embedder())
    running = start_server()
    may_run.clear()
    rows = to_tensor(np.ones((1, 4), np.float32))
    request = EmbedStreamRequest(request=EmbedRequest(model=EMBEDDER, inputs={"features": rows}))
    stream = running.inference.EmbedStream(iter([request] * 100))
    assert enough.wait(60)
    # Whatever else was sent lies in gRPC's window now; other calls are answered meanwhile.
    for _ in range(20):
        assert running.models.ListModels(ListModelsRequest()).models
    assert len(taken) == IN_FLIGHT
    may_run.set()
    assert len(list(stream)) == 100


def test_streams_end_at_drain_after_what_they_have_begun(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = threading.Event()

    def requests() -> Iterator[PredictStreamRequest]:
        yield step(1)
        more.wait()

    stream = running.inference.PredictStream(requests())
    assert value(next(stream)) == 2
    running.server.stop()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert read_failure(caught.value).reason is Reason.SHUTTING_DOWN
    more.set()


def test_a_cancelled_stream_leaves_nothing_in_flight(running: Running) -> None:
    hold = threading.Event()

    def requests() -> Iterator[PredictStreamRequest]:
        for _ in range(IN_FLIGHT):
            yield step(1)
        hold.wait()

    stream = running.inference.PredictStream(requests())
    next(stream)
    stream.cancel()
    hold.set()
    assert running.server._admission.wait_idle(60)
    loaded = running.server._repository.find(STEPPER)
    loaded.leases.leave()
    loaded.leases.close()
