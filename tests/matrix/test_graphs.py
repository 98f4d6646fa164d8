"""What the server answers over either protocol has the bits of ONNX Runtime in this process."""

import ctypes
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from conftest import Running
from onnx import TensorProto
from open_inference.calls import Calls, infer_request, raw_output

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

from . import sensitive
from .conftest import GRAPHS, REFUSED
from .graph import Graph, bits, is_bfloat16

ADDING = tuple(sensitive.reductions())
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.name)


def test_there_are_a_few_hundred_unlike_graphs() -> None:
    assert len({graph.name for graph in GRAPHS}) == len(GRAPHS) > 300


def reference(graph: Graph, folder: Path) -> dict[str, Array]:
    """Runs the graph in this process, from its file, with inputs that begin at whole vectors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path = folder / graph.name / "1" / "model.onnx"
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == [output.name for output in graph.model.graph.output]
    inputs = {name: aligned(array) for name, array in graph.inputs.items()}
    feeds = {name: ort_value(a) if is_bfloat16(a) else a for name, a in inputs.items()}
    if "tensor(bfloat16)" not in {output.type for output in session.get_outputs()}:
        return dict(zip(names, session.run(names, feeds), strict=True))
    values = session.run_with_ort_values(
        names, {name: ort_value(array) for name, array in inputs.items()}
    )
    return {name: plain(value) for name, value in zip(names, values, strict=True)}


def aligned(array: Array) -> Array:
    """Returns an array, copied to where ONNX Runtime's own arrays may begin."""
    if array.dtype == object:
        return array
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def ort_value(array: Array) -> Any:
    """Returns an array as ONNX Runtime's own, which takes any type but text."""
    if not is_bfloat16(array):
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits16 = array.view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits16, TensorProto.BFLOAT16)


def plain(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    data = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(shape)


@every_graph
def test_predict(running: Running, graph: Graph) -> None:
    expected = reference(graph, running.server._settings.models)
    model = ModelReference(name=graph.name)
    sent = {name: to_tensor(array) for name, array in graph.inputs.items()}
    response = running.inference.Predict(PredictRequest(model=model, inputs=sent))
    answers = {name: from_tensor(tensor) for name, tensor in response.outputs.items()}
    assert answers.keys() == expected.keys()
    for name, array in expected.items():
        assert bits(answers[name]) == bits(array), name
    last = list(expected)[-1]
    alone = running.inference.Predict(PredictRequest(model=model, inputs=sent, outputs=[last]))
    assert list(alone.outputs) == [last]
    assert bits(from_tensor(alone.outputs[last])) == bits(expected[last])


@every_graph
def test_model_infer(running: Running, graph: Graph) -> None:
    expected = reference(graph, running.server._settings.models)
    response = Calls(running.channel).infer(infer_request(graph.name, graph.inputs))
    assert [output.name for output in response.outputs] == list(expected)
    for index, array in enumerate(expected.values()):
        assert bits(raw_output(response, index)) == bits(array), response.outputs[index].name


@pytest.mark.parametrize("graph", ADDING, ids=lambda graph: graph.name)
def test_bits_do_not_depend_on_how_long_an_id_is(running: Running, graph: Graph) -> None:
    """Where an array lies in a message depends on what stands before it."""
    (expected,) = reference(graph, running.server._settings.models).values()
    calls = Calls(running.channel)
    for length in range(40):
        request = infer_request(graph.name, graph.inputs)
        request.id = "i" * length
        assert bits(raw_output(calls.infer(request), 0)) == bits(expected), length


@pytest.mark.parametrize(("graph", "reason"), REFUSED, ids=lambda one: getattr(one, "name", ""))
def test_what_no_tensor_can_hold_is_refused_by_name(
    running: Running, graph: Graph, reason: str
) -> None:
    (version,) = running.server._repository.models[graph.name].versions
    assert version.failed
    assert reason in version.state_reason
    with pytest.raises(grpc.RpcError) as caught:
        Calls(running.channel).infer(infer_request(graph.name, graph.inputs))
    assert reason in str(caught.value.details())


@pytest.mark.parametrize(
    ("model", "batched"),
    [
        ("many", True),
        # One input may have a single row for all of another's.
        ("axes-apart", False),
        ("add-float32", False),
        ("open-conv", True),
        ("open-even", True),
        *((graph.name, True) for graph in ADDING),
        *((graph.name, False) for graph in sensitive.dependent_rows()),
    ],
)
def test_rows_are_gathered_only_where_each_has_an_answer_of_its_own(
    running: Running, model: str, batched: bool
) -> None:
    request = GetModelRequest(model=ModelReference(name=model))
    assert running.models.GetModel(request).model.signature.batched is batched


def test_an_initializer_that_is_also_an_input_cannot_be_sent(running: Running) -> None:
    inputs = {"x": np.ones((2, 3), np.float32), "w": np.ones((3, 2), np.float32)}
    with pytest.raises(grpc.RpcError) as caught:
        Calls(running.channel).infer(infer_request("initializer-as-input-10", inputs))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "no input 'w'; the model takes 'x'"
