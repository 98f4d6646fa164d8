"""The bits of an answer do not depend on where its request happens to lie in memory.

ONNX Runtime's reductions do depend on it, so every run gets arrays that begin alike.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from conftest import Running, StartServer
from onnx import TensorProto, helper
from open_inference.calls import Calls, infer_request, raw_output
from tiny_models import Publisher, TinyModel, model

from forwardpass.server.aligned import (
    ALIGNMENT,
    align,
    concatenate_aligned,
    copy_aligned,
    empty_aligned,
    join_aligned,
)
from forwardpass.server.onnx.session import Session
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

# Whole vectors, so that rows that are gathered begin alike as well.
WIDTH = 1008
# Each moves the elements of a request by a byte: the model's name, and the request's id.
NAMES = ["z" * length for length in range(1, 20)]
IDS = ["i" * length for length in range(40)]
# Many, so that native requests are long enough for their elements to be read where they lie.
ROWS = np.random.default_rng(7).normal(3.0, 50.0, (20, WIDTH)).astype(np.float32)


def zscore() -> TinyModel:
    """Each row less its mean, by its standard deviation."""
    shape = ["rows", WIDTH]
    return TinyModel(
        model(
            [
                helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1),
                helper.make_node("Sub", ["x", "mean"], ["centred"]),
                helper.make_node("ReduceL2", ["centred", "axis"], ["spread"], keepdims=1),
                helper.make_node("Div", ["centred", "spread"], ["y"]),
            ],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            {"axis": np.array([1], np.int64)},
        )
    )


def address(array: Array) -> int:
    begin: int = array.__array_interface__["data"][0]
    return begin


def shifted(array: Array, by: int) -> Array:
    """Returns a copy that begins so many bytes after a multiple of ALIGNMENT."""
    memory = empty_aligned((array.nbytes + by,), np.dtype(np.uint8))
    copy = memory[by:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    for name in NAMES:
        repository(name, zscore())
    return start_server()


@pytest.fixture(scope="module")
def expected() -> bytes:
    """What ONNX Runtime answers in this process to an array that is aligned."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(zscore().graph.SerializeToString(), options)
    (answer,) = session.run(["y"], {"x": shifted(ROWS, 0)})
    # Else there would be nothing to see.
    assert len({session.run(["y"], {"x": shifted(ROWS, by)})[0].tobytes() for by in range(64)}) > 1
    content: bytes = answer.tobytes()
    return content


def native(name: str) -> PredictRequest:
    return PredictRequest(model=ModelReference(name=name), inputs={"x": to_tensor(ROWS)})


def predict(running: Running) -> Iterator[Array]:
    # The first of each is parsed, the second is of a known form.
    for name in 2 * NAMES:
        yield from_tensor(running.inference.Predict(native(name)).outputs["y"])


def predict_in_a_stream(running: Running) -> Iterator[Array]:
    call: Any = running.inference.PredictStream
    for answer in call(PredictStreamRequest(request=native(name)) for name in 2 * NAMES):
        yield from_tensor(answer.response.outputs["y"])


def infer(running: Running) -> Iterator[Array]:
    for request_id in 2 * IDS:
        request = infer_request("z", {"x": ROWS}, id=request_id)
        yield raw_output(Calls(running.channel).infer(request))


def infer_in_a_stream(running: Running) -> Iterator[Array]:
    requests = [infer_request("z", {"x": ROWS}, id=request_id) for request_id in 2 * IDS]
    for answer in Calls(running.channel).stream(one.SerializeToString() for one in requests):
        yield raw_output(answer.infer_response)


@pytest.mark.parametrize("answers", [predict, predict_in_a_stream, infer, infer_in_a_stream])
def test_an_answer_has_the_same_bits_wherever_its_request_lies(
    running: Running, expected: bytes, answers: Callable[[Running], Iterator[Array]]
) -> None:
    seen = [answer.tobytes() for answer in answers(running)]
    assert len(seen) in (2 * len(NAMES), 2 * len(IDS))
    assert set(seen) == {expected}


@pytest.mark.parametrize("by", [0, 1, 4, 63])
def test_inputs_begin_at_a_multiple_of_64_bytes(by: int) -> None:
    given = shifted(ROWS, by)
    (array,) = align({"x": given}).values()
    assert address(array) % ALIGNMENT == 0
    assert array.tobytes() == ROWS.tobytes()
    assert np.shares_memory(array, given) is (by == 0)


def test_what_is_not_contiguous_is_copied_too() -> None:
    (array,) = align({"x": ROWS[:, ::2]}).values()
    assert array.flags.c_contiguous
    assert address(array) % ALIGNMENT == 0
    np.testing.assert_array_equal(array, ROWS[:, ::2])


def test_strings_stay_where_they_are() -> None:
    texts = np.array([["a"], ["b"]], object)
    assert align({"x": texts})["x"] is texts
    np.testing.assert_array_equal(concatenate_aligned([texts, texts])[2:], texts)


@pytest.mark.parametrize("size", [0, 3, 4096, 600_000])
def test_parts_are_joined_in_the_memory_of_the_thread_or_beyond(size: int) -> None:
    parts = [bytes([index]) * size for index in range(3)]
    for count in (1, 3, 2):
        joined = join_aligned([memoryview(part) for part in parts[:count]])
        assert joined[: count * size] == b"".join(parts[:count])
        assert address(np.frombuffer(joined, np.uint8)) % ALIGNMENT == 0 or not size
        copy = copy_aligned(memoryview(parts[count - 1]))
        assert copy[:size] == parts[count - 1]
        assert address(np.frombuffer(copy, np.uint8)) % ALIGNMENT == 0 or not size


def test_arrays_are_joined_along_their_rows() -> None:
    joined = concatenate_aligned([shifted(ROWS, 4), ROWS, shifted(ROWS, 8)])
    assert address(joined) % ALIGNMENT == 0
    np.testing.assert_array_equal(joined, np.concatenate([ROWS, ROWS, ROWS]))


def test_an_output_that_is_an_input_outlives_the_memory_of_the_next_run() -> None:
    """Beside one whose size the values tell, such outputs are looked at where they lie."""
    value = helper.make_tensor_value_info
    graph = model(
        [helper.make_node("NonZero", ["x"], ["places"])],
        [value("x", TensorProto.FLOAT, ["n"])],
        [value("x", TensorProto.FLOAT, ["n"]), value("places", TensorProto.INT64, [1, "m"])],
    )
    session = Session(graph.SerializeToString(), {}, 1)
    (given,) = align({"x": np.arange(4, dtype=np.float32)}).values()
    same, places = session.run(["x", "places"], {"x": given})
    given[...] = 9
    assert same.tolist() == [0, 1, 2, 3]
    assert places.tolist() == [[1, 2, 3]]
