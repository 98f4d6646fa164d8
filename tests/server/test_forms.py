"""Requests that are alike: answered as the first of them was, which alone is parsed."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from cases.harness import PATIENCE, connect, predict, stub_of
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto
from open_inference.calls import Calls, infer_request, new, raw_output
from parsed import Parsed
from tiny_models import EMBEDDER_WEIGHTS, Publisher, classifier, echo, embedder

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.rpc import request_templates
from forwardpass.server.rpc.schema import PREDICT as PREDICT_SCHEMA
from forwardpass.v1.inference_service_pb2 import EmbedRequest, PredictRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, Reason, from_tensor, to_tensor

LONG = PREDICT_SCHEMA.scanned_from
RANDOM = np.random.default_rng(5)


def features() -> Array:
    return RANDOM.normal(size=(2, 4)).astype(np.float32)


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("emb", embedder())
    repository("clf", classifier())
    repository("one", echo(TensorProto.FLOAT, ["n", 4]))
    repository("two", echo(TensorProto.FLOAT, ["n", 4]))
    return start_server()


@pytest.fixture
def calls(running: Running) -> Calls:
    return Calls(running.channel)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    return Parsed(monkeypatch)


def test_only_the_first_of_requests_alike_is_parsed(calls: Calls, parsed: Parsed) -> None:
    for index in range(5):
        array = features()
        # An id of another length is a form of its own; so is none.
        response = calls.infer(infer_request("one", {"x": array}, id=f"request {index}"))
        assert response.id == f"request {index}"
        assert (raw_output(response) == array).all()
    assert parsed.count == 1
    assert not calls.infer(infer_request("one", {"x": array})).id
    assert parsed.count == 2


def test_native_requests_alike_are_parsed_once(running: Running, parsed: Parsed) -> None:
    for _ in range(5):
        array = features()
        response = running.inference.Predict(predict("one", {"x": array}))
        assert (response.model.name, response.model.version) == ("one", 1)
        assert response.outputs["y"] == to_tensor(array)
    assert parsed.count == 1


def test_long_requests_alike_are_parsed_once(
    repository: Publisher, start_server: StartServer, parsed: Parsed
) -> None:
    width = LONG // 4
    repository("long", echo(TensorProto.FLOAT, ["n", width]))
    running = start_server()
    for _ in range(3):
        array = RANDOM.normal(size=(1, width)).astype(np.float32)
        response = running.inference.Predict(predict("long", {"x": array}))
        assert (from_tensor(response.outputs["y"]) == array).all()
    assert parsed.count == 1


@pytest.mark.parametrize(("normalize", "half"), [(False, False), (True, False), (False, True)])
def test_embeddings_have_the_form_asked_for(
    running: Running, parsed: Parsed, normalize: bool, half: bool
) -> None:
    answers = []
    array = features()
    for _ in range(2):
        request = EmbedRequest(
            model=ModelReference(name="emb"),
            inputs={"features": to_tensor(array)},
            normalize=normalize,
            half_precision=half,
        )
        answers.append(running.inference.Embed(request))
    assert parsed.count == 1
    assert answers[0] == answers[1]
    vectors = array @ EMBEDDER_WEIGHTS
    if normalize:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    got = from_tensor(answers[1].embeddings)
    assert got.dtype == (np.float16 if half else np.float32)
    assert got == pytest.approx(vectors, abs=1e-2 if half else 1e-5)


def test_requests_of_one_length_are_told_apart(calls: Calls, parsed: Parsed) -> None:
    for name in ("one", "two", "two", "one"):
        array = features()
        response = calls.infer(infer_request(name, {"x": array}))
        assert response.model_name == name
        assert (raw_output(response) == array).all()
    assert parsed.count == 3


def test_what_is_wrong_with_one_of_them_is_told(calls: Calls) -> None:
    good = infer_request("one", {"x": features()}, id="abc")
    calls.infer(good)
    bad = infer_request("one", {"x": features()}, id="abc")
    bad.inputs[0].shape[1] = 3
    assert failure_of(calls.infer, bad).reason == Reason.INVALID_INPUT
    text = good.SerializeToString().replace(b"abc", b"\xff\xfe\xfd")
    assert failure_of(calls.send, "ModelInfer", text).reason == Reason.INVALID_INPUT
    assert calls.infer(good).id == "abc"


def more(name: str, array: Array) -> Iterator[PredictRequest]:
    """Yields requests that ask for more than the values of the outputs."""
    yield predict(name, {"image": array}, top_k=1)
    yield predict(name, {"image": array}, timing=True)


def test_what_differs_from_answer_to_answer_is_found_out_each_time(
    running: Running, parsed: Parsed
) -> None:
    array = RANDOM.integers(0, 256, (1, 4, 4, 1), np.uint8)
    for request in more("clf", array):
        for _ in range(2):
            response = running.inference.Predict(request)
            assert bool(response.classifications) == bool(request.top_k)
            assert response.HasField("timing") == request.timing
    assert parsed.count == 4


def test_classes_are_named_for_each_request(calls: Calls, parsed: Parsed) -> None:
    array = RANDOM.integers(0, 256, (1, 4, 4, 1), np.uint8)
    output: Any = {"name": "probabilities", "parameters": {"classification": new("InferParameter")}}
    request = infer_request("clf", {"image": array}, outputs=[output])
    request.outputs[0].parameters["classification"].int64_param = 1
    for _ in range(2):
        assert calls.infer(request).outputs[0].datatype == "BYTES"
    assert parsed.count == 2


def test_elements_that_must_be_looked_at_are(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("one", echo(TensorProto.FLOAT, ["n", 4]))
    running = start_server(reject_nonfinite=True)
    running.inference.Predict(predict("one", {"x": features()}))
    array = features()
    array[1, 2] = np.nan
    request = predict("one", {"x": array})
    assert failure_of(running.inference.Predict, request).reason == Reason.INVALID_INPUT


def test_booleans_are_looked_at_each_time(repository: Publisher, start_server: StartServer) -> None:
    repository("flag", echo(TensorProto.BOOL, ["n"]))
    calls = Calls(start_server().channel)
    calls.infer(infer_request("flag", {"x": np.array([True])}))
    request = infer_request("flag", {"x": np.array([2], np.uint8).view(bool)})
    assert failure_of(calls.infer, request).reason == Reason.INVALID_INPUT


def test_a_request_with_much_beside_its_elements_is_no_form(calls: Calls, parsed: Parsed) -> None:
    for _ in range(2):
        calls.infer(infer_request("one", {"x": features()}, id="i" * 5000))
    assert parsed.count == 2


def test_requests_alike_have_deadlines_of_their_own(
    running: Running, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = []
    make = request_templates.TemplateJob.__init__

    def note(job: request_templates.TemplateJob, *arguments: Any) -> None:
        make(job, *arguments)
        deadlines.append(job.deadline)

    monkeypatch.setattr(request_templates.TemplateJob, "__init__", note)
    request = infer_request("one", {"x": features()})
    for timeout in (None, 30, 60, None):
        calls.infer(request, timeout=timeout)
    (early, late, never) = deadlines
    assert never is None
    assert early is not None
    assert late is not None
    assert early < late


def test_a_new_version_answers_the_next_request(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server(management_port=0)
    array = RANDOM.integers(0, 256, (1, 4, 4, 1), np.uint8)
    request = predict("clf", {"image": array})
    for _ in range(2):
        assert running.inference.Predict(request).model.version == 1
    # Of another form, of which no more come.
    running.inference.Predict(predict("clf", {"image": np.concatenate([array, array])}))
    retired = weakref.ref(loaded_of(running, "clf"))
    repository("clf", classifier(bias=1.0), 2)
    running.server._repository.load(ModelReference(name="clf"))
    assert running.inference.Predict(request).model.version == 2
    # A form must not hold on to the graph of a version that has gone.
    gc.collect()
    assert retired() is None


def loaded_of(running: Running, name: str) -> Any:
    version = running.server._repository.models[name].newest_ready
    assert version is not None
    return version.loaded


def test_a_label_is_looked_up_each_time(
    repository: Publisher, start_server: StartServer, tmp_path: Path, parsed: Parsed
) -> None:
    repository("clf", classifier())
    (tmp_path / "models" / "clf" / "labels.json").write_text('{"stable": 1}')
    running = start_server()
    array = RANDOM.integers(0, 256, (1, 4, 4, 1), np.uint8)
    for _ in range(2):
        running.inference.Predict(predict("clf", {"image": array}, label="stable"))
    assert parsed.count == 2


@pytest.mark.parametrize("width", [4, 4096])
def test_requests_alike_that_come_together_get_their_own_rows(
    repository: Publisher, start_server: StartServer, width: int
) -> None:
    repository("wide", echo(TensorProto.FLOAT, ["n", width]))
    running = start_server()
    arrays = [RANDOM.normal(size=(2, width)).astype(np.float32) for _ in range(64)]
    with connect(running) as channel:
        stub = stub_of(channel)
        futures = [
            stub.Predict.future(predict("wide", {"x": array}), timeout=PATIENCE)
            for array in (*arrays, *arrays)
        ]
        for future, array in zip(futures, (*arrays, *arrays), strict=True):
            assert (from_tensor(future.result().outputs["y"]) == array).all()


def test_only_so_many_forms_are_kept(
    running: Running, monkeypatch: pytest.MonkeyPatch, parsed: Parsed
) -> None:
    monkeypatch.setattr(request_templates, "_MAX_TEMPLATES", 2)
    requests = [predict("one", {"x": np.ones((rows, 4), np.float32)}) for rows in (1, 2, 3)]
    for request in requests:
        running.inference.Predict(request)
    running.inference.Predict(requests[2])
    assert parsed.count == 3
    running.inference.Predict(requests[0])
    assert parsed.count == 4


def test_a_form_keeps_no_elements(running: Running) -> None:
    array = features()
    running.inference.Predict(predict("one", {"x": array}))
    running.inference.Embed(
        EmbedRequest(model=ModelReference(name="emb"), inputs={"features": to_tensor(array)})
    )
    # By type: to ask some objects of other libraries for their class makes them warn.
    kept = [one for one in gc.get_objects() if type(one) is request_templates.RequestTemplate]
    assert len(kept) >= 2
    content = array.tobytes()
    seen: set[int] = set()
    queue: list[Any] = list(kept)
    while queue:
        one = queue.pop()
        if id(one) in seen or isinstance(one, ModuleType | FunctionType | type):
            continue
        seen.add(id(one))
        if isinstance(one, bytes):
            assert content not in one
        elif isinstance(one, PredictRequest | EmbedRequest):
            assert content not in one.SerializeToString()
        elif isinstance(one, Loaded):
            continue  # The model is no part of what a form keeps.
        else:
            queue += gc.get_referents(one)


def test_a_call_leaves_nothing_to_the_garbage_collector(running: Running, calls: Calls) -> None:
    def send() -> None:
        for _ in range(3):
            calls.infer(infer_request("one", {"x": features()}))
            running.inference.Predict(predict("one", {"x": features()}))
            running.inference.Predict(predict("one", {"x": features()}, timing=True))

    send()
    gc.collect()
    gc.disable()
    try:
        send()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [kind for kind in map(type, gc.garbage) if kind.__module__.startswith("forwardpass")]
        assert not left
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
