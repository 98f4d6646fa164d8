"""Requests of streams that are alike: answered as the first of them was, which alone is parsed."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from conftest import Running, StartServer
from onnx import TensorProto
from parsed import Parsed
from tiny_models import EMBEDDER_WEIGHTS, Publisher, echo, embedder, stepper

from forwardpass.server.rpc.request_templates import RequestTemplates
from forwardpass.server.rpc.schema import PREDICT as PREDICT_SCHEMA
from forwardpass.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedStreamRequest,
    PredictRequest,
    PredictStreamRequest,
)
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

LONG = PREDICT_SCHEMA.scanned_from
RANDOM = np.random.default_rng(7)


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("emb", embedder())
    repository("one", echo(TensorProto.FLOAT, ["n", 4]))
    repository("three", echo(TensorProto.FLOAT, ["n", 4]))
    repository("step", stepper())
    repository("long", echo(TensorProto.FLOAT, ["n", LONG // 4]))
    return start_server()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    return Parsed(monkeypatch)


def rows(width: int = 4) -> Array:
    return RANDOM.normal(size=(2, width)).astype(np.float32)


def streamed(array: Array, model: str | None = "one", **fields: bool) -> PredictStreamRequest:
    reference = None if model is None else ModelReference(name=model)
    request = PredictRequest(model=reference, inputs={"x": to_tensor(array)})
    return PredictStreamRequest(request=request, **fields)


def one_by_one(
    running: Running, requests: Iterable[PredictStreamRequest]
) -> Iterator[tuple[str, Array]]:
    """Sends each request when the one before is answered; yields the model's name and `y`."""
    for request in requests:
        (answer,) = running.inference.PredictStream(iter([request]))
        yield answer.response.model.name, from_tensor(answer.response.outputs["y"])


@pytest.mark.parametrize("width", [4, LONG // 4])
def test_only_the_first_of_requests_alike_is_parsed(
    running: Running, parsed: Parsed, width: int
) -> None:
    model = "one" if width == 4 else "long"
    arrays = [rows(width) for _ in range(4)]
    answers = one_by_one(running, [streamed(array, model) for array in arrays])
    for (name, answer), array in zip(answers, arrays, strict=True):
        assert name == model
        assert (answer == array).all()
    assert parsed.count == 1


def test_embeddings_alike_are_parsed_once(running: Running, parsed: Parsed) -> None:
    for _ in range(3):
        array = rows()
        request = EmbedRequest(
            model=ModelReference(name="emb"), inputs={"features": to_tensor(array)}
        )
        messages = [EmbedStreamRequest(request=request)]
        (answer,) = running.inference.EmbedStream(iter(messages))
        vectors = from_tensor(answer.response.embeddings)
        assert vectors == pytest.approx(array @ EMBEDDER_WEIGHTS, rel=1e-5)
        assert answer.response.space_id
    assert parsed.count == 1


def test_one_without_a_model_means_that_of_the_one_before_known_or_not(running: Running) -> None:
    array = rows()
    for name in ("one", "three"):
        list(one_by_one(running, [streamed(array, name)]))
    # All that name a model are of known forms; none of the others is.
    models = ["one", None, "three", None, "three", "one", None, None]
    answers = running.inference.PredictStream(iter([streamed(array, name) for name in models]))
    assert [answer.response.model.name for answer in answers] == [
        *("one", "one", "three", "three", "three", "one", "one", "one")
    ]


def test_one_without_a_model_is_no_form(running: Running, parsed: Parsed) -> None:
    array = rows()
    for name in ("one", "three"):
        sent = [streamed(array, name), streamed(array, None)]
        answers = list(running.inference.PredictStream(iter(sent)))
        assert [answer.response.model.name for answer in answers] == [name, name]
    assert parsed.count == 4


def test_what_a_model_with_states_gives_depends_on_more_than_the_request(
    running: Running,
) -> None:
    requests = [streamed(np.ones((1, 1), np.float32), "step") for _ in range(4)]
    answers = list(running.inference.PredictStream(iter(requests)))
    values = [float(from_tensor(answer.response.outputs["y"])[0, 0]) for answer in answers]
    assert len(set(values)) == 4


def test_to_forget_the_states_is_done_each_time(running: Running) -> None:
    one = np.ones((1, 1), np.float32)
    forgetting = streamed(rows(), reset_state=True)
    sent = [streamed(one, "step"), streamed(one, "step"), forgetting, streamed(one, "step")]
    for _ in range(2):
        answers = list(running.inference.PredictStream(iter(sent)))
        first, second, _, last = (from_tensor(one.response.outputs["y"]) for one in answers)
        assert last == first
        assert second != first


def test_a_request_whose_model_has_gone_meanwhile_is_parsed(
    running: Running, parsed: Parsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(one_by_one(running, [streamed(rows())]))
    # As a new version has it, between the finding of the template and the lease.
    monkeypatch.setattr(RequestTemplates, "begin", lambda *_: False)
    array = rows()
    ((name, answer),) = one_by_one(running, [streamed(array)])
    assert name == "one"
    assert (answer == array).all()
    assert parsed.count == 2
