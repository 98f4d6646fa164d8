"""What ModelInfer answers."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto, helper
from tiny_models import (
    CLASSIFIER_WEIGHTS,
    EMBEDDER_WEIGHTS,
    LABELS,
    Publisher,
    TinyModel,
    echo,
    embedder,
    softmax,
)
from tiny_models import model as graph_of

from forwardpass.server.rpc.receive import MAX_BYTES
from forwardpass.server.scheduling.executor import ThreadExecutor
from forwardpass.server.scheduling.job import Job
from forwardpass.v1.inference_service_pb2 import EmbedRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, Reason, to_tensor

from .calls import FEATURES, TYPES, Calls, emb, infer_request, new, raw_output
from .conftest import A, B, Hold

IMAGES = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 1), np.uint8)
PROBABILITIES = softmax(IMAGES.reshape(6, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)
# Each type, values of it, and the field of contents that they travel in; None for raw only.
TYPED: list[Any] = [
    ("BOOL", [True, False, True], "bool_contents"),
    ("INT8", [-128, 0, 127], "int_contents"),
    ("INT16", [-32768, 0, 32767], "int_contents"),
    ("INT32", [-(2**31), 0, 2**31 - 1], "int_contents"),
    ("INT64", [-(2**63), 0, 2**63 - 1], "int64_contents"),
    ("UINT8", [0, 1, 255], "uint_contents"),
    ("UINT16", [0, 1, 65535], "uint_contents"),
    ("UINT32", [0, 1, 2**32 - 1], "uint_contents"),
    ("UINT64", [0, 1, 2**64 - 1], "uint64_contents"),
    ("FP32", [0.5, -1.25, 3e38], "fp32_contents"),
    ("FP64", [0.1, -1e300, 5e-324], "fp64_contents"),
    ("BYTES", ["", "a\0b", "🙂"], "bytes_contents"),
    ("FP16", [0.5, -1.25, 65504], None),
    ("BF16", [0.5, -1.25, 3e38], None),
]


def texts_of(response: Any, index: int = 0) -> list[list[str]]:
    return [[item.decode() for item in row] for row in raw_output(response, index)]


def classified(name: str, count: int, inputs: dict[str, Array], model: str) -> Any:
    output = {"name": name, "parameters": {"classification": new("InferParameter")}}
    request = infer_request(model, inputs, outputs=[output])
    request.outputs[0].parameters["classification"].int64_param = count
    return request


def test_it_answers_what_numpy_computes_with_id_and_version(calls: Calls) -> None:
    response = calls.infer(emb(id="my id"))
    assert (response.model_name, response.model_version, response.id) == ("emb", "1", "my id")
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("embedding", "FP32", [2, 3])
    assert raw_output(response) == pytest.approx(FEATURES @ EMBEDDER_WEIGHTS, abs=1e-5)
    assert not calls.infer(emb()).id
    assert not response.parameters


def test_outputs_come_as_they_are_asked_for(calls: Calls) -> None:
    inputs = {"b": B, "a": A}
    everything = calls.infer(infer_request("add", inputs))
    assert [output.name for output in everything.outputs] == ["sum", "difference"]
    assert (raw_output(everything, 0) == A + B).all()
    assert (raw_output(everything, 1) == A - B).all()
    turned = infer_request("add", inputs, outputs=[{"name": "difference"}, {"name": "sum"}])
    response = calls.infer(turned)
    assert [output.name for output in response.outputs] == ["difference", "sum"]
    assert (raw_output(response, 0) == A - B).all()
    single = infer_request("add", inputs, outputs=[{"name": "sum"}])
    assert [output.name for output in calls.infer(single).outputs] == ["sum"]


@pytest.mark.parametrize(("datatype", "values", "field"), TYPED)
def test_every_type_travels_raw_and_typed(
    repository: Publisher, start_server: StartServer, datatype: str, values: Any, field: str | None
) -> None:
    kind = TYPES[datatype]
    onnx_types = {"BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16}
    onnx_type = onnx_types.get(datatype) or helper.np_dtype_to_tensor_dtype(kind.dtype)
    repository("echo", echo(onnx_type, ["n"]))
    calls = Calls(start_server().channel)
    array = np.array(values, kind.dtype)
    request = infer_request("echo", {"x": array})
    response = calls.infer(request)
    assert response.outputs[0].datatype == datatype
    assert response.raw_output_contents == request.raw_input_contents
    if field is None:
        return
    elements = [value.encode() for value in values] if datatype == "BYTES" else values
    plain = new("ModelInferRequest", model_name="echo")
    plain.inputs.add(name="x", datatype=datatype, shape=[3], contents={field: elements})
    assert calls.infer(plain).raw_output_contents == request.raw_input_contents


def test_raw_contents_may_lie_anywhere_in_the_message(calls: Calls) -> None:
    """A name one byte longer moves the elements off their alignment; order is free on the wire."""
    for size in range(1, 10):
        response = calls.infer(emb(id="i" * size))
        assert raw_output(response) == pytest.approx(FEATURES @ EMBEDDER_WEIGHTS, abs=1e-5)
    request = infer_request("add", {"a": A, "b": B})
    raws = new("ModelInferRequest", raw_input_contents=request.raw_input_contents)
    del request.raw_input_contents[:]
    message = raws.SerializeToString() + request.SerializeToString()
    assert (raw_output(calls.send("ModelInfer", message)) == A + B).all()


def test_raw_contents_may_be_longer_than_all_else(calls: Calls) -> None:
    index = np.random.default_rng(6).integers(0, 4, 1_000_000)
    assert index.nbytes > MAX_BYTES
    response = calls.infer(infer_request("pick", {"index": index}))
    assert (raw_output(response) == index).all()


def test_classification_names_the_likeliest_classes(calls: Calls) -> None:
    response = calls.infer(classified("probabilities", 2, {"image": IMAGES}, "clf"))
    assert (response.outputs[0].datatype, response.outputs[0].shape) == ("BYTES", [6, 2])
    for row, texts in zip(PROBABILITIES, texts_of(response), strict=True):
        for place, text in zip(np.argsort(-row), texts, strict=False):
            value, index, label = text.split(":")
            assert (int(index), label) == (place, LABELS[place])
            assert float(value) == pytest.approx(row[place], abs=2e-6)
            assert len(value.split(".")[1]) == 6


def test_classification_of_more_classes_than_there_are_names_all(calls: Calls) -> None:
    response = calls.infer(classified("probabilities", 1000, {"image": IMAGES}, "clf"))
    assert response.outputs[0].shape == [6, 3]
    assert calls.infer(classified("probabilities", 0, {"image": IMAGES}, "clf")).outputs[
        0
    ].shape == [6, 3]
    none = calls.infer(classified("probabilities", 2, {"image": IMAGES[:0]}, "clf"))
    assert none.outputs[0].shape == [0, 2]


def test_classification_without_labels_or_rows_tells_values_and_indices(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("counts", echo(TensorProto.UINT8, [2, 3]))
    repository("half", echo(TensorProto.FLOAT16, ["n", 3]))
    calls = Calls(start_server().channel)
    counts = np.array([[5, 0, 255], [5, 9, 9]], np.uint8)
    response = calls.infer(classified("y", 4, {"x": counts}, "counts"))
    assert response.outputs[0].shape == [4]
    assert [text.decode() for text in raw_output(response)] == ["255:2", "9:4", "9:5", "5:0"]
    values = np.array([[1, 3, 3], [0.5, -2, -1]], np.float16)
    response = calls.infer(classified("y", 2, {"x": values}, "half"))
    flat = [text.decode() for text in raw_output(response).ravel()]
    assert flat == ["3.000000:1", "3.000000:2", "0.500000:0", "-1.000000:2"]


@pytest.mark.parametrize(
    ("model", "values"), [("text", np.array(["a"], object)), ("flag", np.array([True]))]
)
def test_what_is_no_number_cannot_be_ranked(calls: Calls, model: str, values: Array) -> None:
    failure = failure_of(calls.infer, classified("y", 1, {"x": values}, model))
    assert failure.reason is Reason.INVALID_INPUT
    assert failure.message == "output 'y' cannot be ranked: its elements are no numbers"


def test_an_index_out_of_range_is_told_the_caller_and_no_other(calls: Calls) -> None:
    failure = failure_of(calls.infer, infer_request("pick", {"index": np.array([9], np.int64)}))
    assert failure.reason is Reason.INVALID_INPUT
    assert "the model refuses the values" in failure.message
    good = infer_request("pick", {"index": np.array([3], np.int64)})
    assert raw_output(calls.infer(good)).tolist() == [3]


def test_newest_version_answers_unless_a_number_or_a_label_says_otherwise(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("emb", embedder(), 1)
    repository("emb", embedder(), 2)
    (folder.parent / "labels.json").write_text('{"stable": 1}')
    calls = Calls(start_server().channel)
    asked = {
        version: calls.infer(emb(model_version=version)) for version in ("", "2", "1", "stable")
    }
    assert [answer.model_version for answer in asked.values()] == ["2", "2", "1", "1"]
    assert calls("ModelMetadata", name="emb").versions == ["1", "2"]
    assert calls("ModelMetadata", name="emb", version="stable").versions == ["1"]


@pytest.mark.usefixtures("no_inline_runs")
def test_priority_and_timeout_go_with_the_job(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository("emb", embedder())
    (folder.parent / "config.pbtxt").write_text(
        "dynamic_batching { priority_levels: 4 default_priority_level: 3 }"
    )
    calls = Calls(start_server().channel)
    jobs: list[Job] = []
    submit = ThreadExecutor.submit

    def note(self: ThreadExecutor, job: Job) -> None:
        jobs.append(job)
        submit(self, job)

    monkeypatch.setattr(ThreadExecutor, "submit", note)
    calls.infer(emb())
    assert (jobs[-1].priority, jobs[-1].deadline) == (2, None)
    request = emb()
    request.parameters["priority"].uint64_param = 1
    before = time.monotonic()
    request.parameters["timeout"].int64_param = 60_000_000
    calls.infer(request)
    first = jobs[-1]
    assert first.priority == 0
    assert first.deadline is not None
    assert before + 60 <= first.deadline <= time.monotonic() + 60
    # The sooner of the two counts.
    calls.infer(request, timeout=30)
    second = jobs[-1]
    assert second.deadline is not None
    assert second.deadline < time.monotonic() + 31


def test_a_request_that_has_waited_too_long_is_not_run(
    hold: Hold, repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository("emb", embedder())
    running = start_server()
    calls = Calls(running.channel)
    hold.hold()
    first = threading.Thread(target=calls.infer, args=(emb(),))
    first.start()
    assert hold.busy.wait(30)
    request = emb()
    request.parameters["timeout"].int64_param = 1
    jobs: list[Job] = []
    submit = ThreadExecutor.submit

    def then_release(self: ThreadExecutor, job: Job) -> None:
        jobs.append(job)
        submit(self, job)
        while not job.expired:
            pass
        hold.release.set()

    monkeypatch.setattr(ThreadExecutor, "submit", then_release)
    failure = failure_of(calls.infer, request)
    first.join()
    assert failure.reason is Reason.DEADLINE_EXCEEDED
    assert "the model was not run" in failure.message
    counters = running.server._repository.models["emb"].versions[0].counters
    assert (counters.runs, counters.dropped["expired"].value) == (1, 1)


def test_several_inputs_need_not_be_batched(
    repository: Publisher, start_server: StartServer
) -> None:
    value = helper.make_tensor_value_info
    matrices = graph_of(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [value("a", TensorProto.FLOAT, [2, "k"]), value("b", TensorProto.FLOAT, ["k", 2])],
        [value("c", TensorProto.FLOAT, [2, 2])],
    )
    repository("mul", TinyModel(matrices))
    calls = Calls(start_server().channel)
    response = calls.infer(infer_request("mul", {"a": A, "b": B}))
    assert (raw_output(response) == A @ B).all()


def test_a_lease_is_given_back_and_a_success_counted(calls: Calls, running: Running) -> None:
    version = running.server._repository.models["emb"].versions[0]
    assert version.loaded is not None
    before = version.counters.succeeded[0]
    calls.infer(emb())
    assert version.counters.succeeded[0] == before + 1
    assert not version.loaded.leases._leases


def infer_in_time(calls: Calls, request: Any) -> Any:
    """Asks until the model has begun in time, which a busy machine may not do at once."""
    for _ in range(1000):
        with suppress(grpc.RpcError):
            return calls.infer(request, timeout=60)
    raise AssertionError("the model never began in time")


def test_the_configured_timeout_ends_the_wait_of_whoever_asks_for_none(
    hold: Hold, repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("emb", embedder()).parent
    (folder / "config.pbtxt").write_text(
        "max_batch_size: 1 dynamic_batching { "
        "default_queue_policy { default_timeout_microseconds: 20000 } }"
    )
    running = start_server()
    calls = Calls(running.channel)
    one = np.zeros((1, 4), np.float32)
    native = EmbedRequest(model=ModelReference(name="emb"), inputs={"features": to_tensor(one)})
    embed: Any = running.inference.Embed
    for _ in range(2):
        # The second is of a known form.
        hold.hold()
        with ThreadPoolExecutor() as threads:
            first = threads.submit(infer_in_time, calls, emb(one))
            assert hold.busy.wait(30)
            for call, request in ((calls.infer, emb(one)), (embed, native)):
                failure = failure_of(call, request, timeout=60)
                assert failure.reason is Reason.DEADLINE_EXCEEDED
                assert "default_timeout_microseconds" in failure.message
            hold.release.set()
            assert first.result().outputs
        hold.busy.clear()
