"""Requests that contradict themselves or the model, by the numbers of the catalogue of cases."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import helper
from tiny_models import EMBEDDER_WEIGHTS, Publisher, echo, embedder

from forwardpass.wire import CODES, Reason

from .calls import FEATURES, Calls, emb, infer_request, new, raw_output
from .conftest import A, B

HUGE = (1 << 63) - 1


def shaped(shape: list[int], content: bytes = b"", datatype: str = "FP32") -> Any:
    request = new("ModelInferRequest", model_name="emb", raw_input_contents=[content])
    request.inputs.add(name="features", datatype=datatype, shape=shape)
    return request


def typed(shape: list[int], datatype: str = "FP32", **contents: Any) -> Any:
    request = new("ModelInferRequest", model_name="emb")
    request.inputs.add(name="features", datatype=datatype, shape=shape, contents=contents)
    return request


def strings(count: int, content: bytes) -> Any:
    request = new("ModelInferRequest", model_name="text", raw_input_contents=[content])
    request.inputs.add(name="x", datatype="BYTES", shape=[count])
    return request


def twice() -> Any:
    request = emb()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def both() -> Any:
    request = emb()
    request.inputs[0].contents.fp32_contents.extend(range(8))
    return request


def wanting(*names: str) -> Any:
    return emb(outputs=[{"name": name} for name in names])


def many(field: str, count: int) -> Any:
    request = emb()
    for index in range(count):
        getattr(request, field).add(name=str(index))
    return request


def parameters(*keys: str, value: Any = None, where: str = "") -> Any:
    request = emb(outputs=[{"name": "embedding"}])
    holder = {"": request, "inputs": request.inputs[0], "outputs": request.outputs[0]}[where]
    for key in keys:
        holder.parameters[key].CopyFrom(new("InferParameter", **(value or {"int64_param": 1})))
    return request


def contents(count: int) -> Any:
    request = infer_request("add", {"a": A, "b": B})
    del request.raw_input_contents[:]
    request.raw_input_contents.extend([A.tobytes()] * count)
    return request


def length(size: int, data: bytes = b"") -> bytes:
    return struct.pack("<I", size) + data


INVALID = {
    "T06 an input twice": (twice(), "input 'features' is given twice"),
    "T07 an output twice": (wanting("embedding", "embedding"), "an output is asked for twice"),
    "T07 an unknown output": (
        wanting("embeding"),
        "no output 'embeding' (did you mean 'embedding'?); the model has 'embedding'",
    ),
    "T11 a negative extent": (shaped([-1, 4]), "has shape [-1, 4], with a negative extent"),
    "T11 the largest extent": (shaped([HUGE]), f"expected {HUGE * 4} bytes, got 0"),
    "T11 the most negative extent": (shaped([-(1 << 63)]), "with a negative extent"),
    "T12 2**66 elements": (shaped([1 << 33, 1 << 33]), f"expected {4 << 66} bytes, got 0"),
    "T13 2**31 elements": (shaped([1 << 31], bytes(16)), f"expected {4 << 31} bytes, got 16"),
    "T14 no axes": (shaped([], bytes(4)), "has shape [], but the model takes [-1, 4]"),
    "T14 33 axes": (shaped([1] * 33, bytes(4)), "has 33 axes, but a tensor has at most 32"),
    "T14 a million axes": (shaped([1] * 1_000_000, bytes(4)), "has 1000000 axes"),
    "T14 an extent of zero among huge ones": (shaped([0, HUGE, HUGE]), "is too large"),
    "T15 four bytes too many": (shaped([1, 8], bytes(36)), "expected 32 bytes, got 36"),
    "T16 four bytes too few": (shaped([1, 8], bytes(28)), "expected 32 bytes, got 28"),
    "T17 part of an element": (shaped([1, 8], bytes(31)), "expected 32 bytes, got 31"),
    "T18 another type": (
        shaped([1 << 20, 4], bytes(4 << 20), "INT8"),
        "inputs['features'] is int8, but the model takes float32",
    ),
    "T19 one content for two inputs": (contents(1), "2 inputs, but 1 raw_input_contents"),
    "T19 three contents for two inputs": (contents(3), "2 inputs, but 3 raw_input_contents"),
    "T19 no contents": (typed([1, 4]), "expected 4 elements in fp32_contents, got 0"),
    "T20 raw and typed": (both(), "has contents beside raw_input_contents; send one of them"),
    "T21 65 inputs": (many("inputs", 64), "more than 64 inputs"),
    "T21 65 outputs": (many("outputs", 65), "more than 64 outputs"),
    "T21 65 contents": (contents(65), "more than 64 raw_input_contents"),
    "T21 65 parameters": (parameters(*map(str, range(65))), "more than 64 parameters"),
    "T21 65 parameters of an input": (
        parameters(*map(str, range(65)), where="inputs"),
        "65 parameters, but a message may have 64",
    ),
    "T21 a long parameter": (parameters("k" * 129), "a parameter's name has 129 characters"),
    "T21 a reserved parameter": (
        parameters("triton_final_response"),
        "parameter 'triton_final_response' is reserved",
    ),
    "T22 a row too many": (
        emb(np.zeros((65, 4), np.float32)),
        "65 rows, but the model takes at most 64 in a request",
    ),
    "T27 a length of 2**32-1": (strings(1, length(0xFFFFFFFF)), "a string of 4294967295 bytes"),
    "T27 a length past the end": (strings(1, length(5, b"abc")), "but only 3 bytes are left"),
    "T27 bytes after the last": (strings(1, length(1, b"abc")), "2 bytes after the last string"),
    "T27 fewer than the shape": (strings(2, length(4, b"abcd")), "takes 2 strings, got 1"),
    "T27 more than the shape": (strings(1, length(0) * 2), "takes 1 strings, got 2"),
    "T28 no UTF-8": (strings(1, length(2, b"\xed\xa0")), "a string that is not UTF-8"),
    **{
        f"T30 datatype {datatype!r}": (
            shaped([1, 4], bytes(16), datatype),
            f"has datatype {datatype!r}",
        )
        for datatype in ("FP32 ", "fp32", "COMPLEX64", "")
    },
    **{
        f"T30 {datatype} in contents": (
            typed([1, 4], datatype, fp32_contents=[1, 2, 3, 4]),
            f"is {datatype}, which travels in raw_input_contents only",
        )
        for datatype in ("FP16", "BF16")
    },
    "contents of another field": (
        typed([1, 4], int_contents=[1, 2, 3, 4]),
        "is FP32, expected fp32_contents, got int_contents",
    ),
    "contents of two fields": (
        typed([1, 4], fp32_contents=[1, 2, 3, 4], int_contents=[1]),
        "is FP32, expected fp32_contents, got int_contents",
    ),
    "typed elements too few": (
        typed([1, 4], fp32_contents=[1]),
        "FP32 of shape [1, 4], expected 4 elements in fp32_contents, got 1",
    ),
    "a typed element out of range": (
        typed([1, 4], "INT8", int_contents=[1, 2, 3, 300]),
        "an element out of the range of INT8",
    ),
    "typed contents of 5 MiB": (
        typed([1, 4], fp32_contents=[0] * (5 << 18)),
        "beside the elements of tensors, images and texts, but a message may have 4194304",
    ),
    "a bool of 2": (
        infer_request("flag", {"x": np.array([2], np.uint8).view(bool)}),
        "each is one byte, 0 or 1",
    ),
    "an input missing": (
        new("ModelInferRequest", model_name="emb"),
        "input 'features' is missing",
    ),
    "no model": (new("ModelInferRequest"), "no model is named"),
    "an unknown input": (
        infer_request("emb", {"feature": FEATURES}),
        "no input 'feature' (did you mean 'features'?)",
    ),
    "a negative timeout": (
        parameters("timeout", value={"int64_param": -1}),
        "parameter 'timeout' must be an integer of 0 or more",
    ),
    "a priority that is text": (
        parameters("priority", value={"string_param": "high"}),
        "got 'high' in string_param",
    ),
    "a priority without a value": (
        parameters("priority", value={"int64_param": None}),
        "parameter 'priority' must be an integer",
    ),
    "a classification that is text": (
        parameters("classification", value={"string_param": "2"}, where="outputs"),
        "parameter 'classification' must be an integer",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_wrong_request_is_told_what_is_wrong(calls: Calls, case: str) -> None:
    request, message = INVALID[case]
    failure = failure_of(calls.infer, request)
    assert failure.reason is Reason.INVALID_INPUT
    assert message in failure.message
    assert len(failure.message.encode()) <= 256
    # The server is none the worse for it.
    assert calls.infer(emb()).outputs


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"\xff\xff\xff", "the bytes are no inference.ModelInferRequest"),
        (b"\x0a\x02\xc3\x28", "the bytes are no inference.ModelInferRequest"),
        (b"", "no model is named"),
        (b"\x0b" * 1_000_000, "the bytes are no inference.ModelInferRequest"),
        (b"\x2a\x00" * (2 << 20), "more than 64 inputs"),
        (b"\x2a\x02\x2a\x00" * 65, "more than 64 inputs"),
    ],
    ids=[
        "T08 bytes",
        "T08 a name not UTF-8",
        "T08 empty",
        "T09 groups",
        "T35 inputs",
        "T09 nested",
    ],
)
def test_bytes_that_are_no_request_are_an_invalid_argument(
    calls: Calls, message: bytes, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = failure_of(calls.send, "ModelInfer", message)
    assert failure.reason is Reason.INVALID_INPUT
    assert told in failure.message
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err


@pytest.mark.parametrize(
    "method",
    [
        *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata"),
        *("ModelConfig", "ModelStatistics", "RepositoryIndex"),
    ],
)
def test_other_methods_refuse_long_messages_and_no_messages(calls: Calls, method: str) -> None:
    # Field 15 is in none of them: as text it would be kept, piece by piece.
    failure = failure_of(calls.send, method, b"\x7a\x00" * 50_000)
    assert failure.reason is Reason.INVALID_INPUT
    assert failure.message == f"a {method}Request has at most 65536 bytes, got 100000"
    failure = failure_of(calls.send, method, b"\xff")
    assert failure.message == f"the bytes are no inference.{method}Request"


def test_t22_no_rows_are_no_rows_of_answers(calls: Calls) -> None:
    answer = raw_output(calls.infer(emb(np.zeros((0, 4), np.float32))))
    assert answer.shape == (0, 3)
    no_bytes = new("ModelInferRequest", model_name="emb")
    no_bytes.inputs.add(name="features", datatype="FP32", shape=[0, 4])
    assert calls.infer(no_bytes).outputs[0].shape == [0, 3]
    texts = infer_request("text", {"x": np.array([], object)})
    assert raw_output(calls.infer(texts)).shape == (0,)


def test_t28_strings_come_back_to_the_byte(calls: Calls) -> None:
    texts = np.array(["", "a\0b", "ünïcödé 🙂", "x" * 70_000], object)
    request = infer_request("text", {"x": texts})
    response = calls.infer(request)
    assert response.outputs[0].datatype == "BYTES"
    assert response.raw_output_contents == request.raw_input_contents
    plain = new("ModelInferRequest", model_name="text")
    data = [text.encode() for text in texts]
    plain.inputs.add(name="x", datatype="BYTES", shape=[4], contents={"bytes_contents": data})
    assert calls.infer(plain).raw_output_contents == request.raw_input_contents


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_t29_special_numbers_come_back_to_the_bit(
    repository: Publisher, start_server: StartServer, dtype: str
) -> None:
    repository("real", echo(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["n"]))
    calls = Calls(start_server().channel)
    tiny = np.finfo(dtype).smallest_subnormal
    values = np.array([np.nan, np.inf, -np.inf, -0.0, tiny, np.finfo(dtype).max], dtype)
    request = infer_request("real", {"x": values})
    assert calls.infer(request).raw_output_contents == request.raw_input_contents


def test_t29_nan_is_refused_where_the_operator_says_so(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("emb", embedder())
    calls = Calls(start_server(reject_nonfinite=True).channel)
    bad = FEATURES.copy()
    bad[1, 2] = np.inf
    plain = typed([2, 4], fp32_contents=bad.ravel().tolist())
    for request in (emb(bad), plain):
        failure = failure_of(calls.infer, request)
        assert failure.reason is Reason.INVALID_INPUT
        assert "has a NaN or an infinity" in failure.message
    assert calls.infer(emb()).outputs


@pytest.mark.parametrize(
    ("version", "reason", "message"),
    [
        ("0", Reason.INVALID_INPUT, "versions start at 1"),
        ("-1", Reason.INVALID_INPUT, "versions start at 1"),
        ("01", Reason.INVALID_INPUT, "version '01' is neither a number from 1"),
        ("1/../2", Reason.INVALID_INPUT, "version '1/../2' is neither"),
        (str(1 << 64), Reason.INVALID_INPUT, "is neither a number from 1"),
        ("9" * 10_000, Reason.INVALID_INPUT, "is neither a number from 1"),
        ("\N{ARABIC-INDIC DIGIT ONE}", Reason.INVALID_INPUT, "is neither a number from 1"),
        ("99", Reason.MODEL_NOT_FOUND, "model 'emb' has no version 99; it has 1"),
        ("latest", Reason.MODEL_NOT_FOUND, "has no version labelled 'latest'"),
    ],
)
def test_t63_a_version_is_a_number_or_a_label(
    calls: Calls, version: str, reason: Reason, message: str
) -> None:
    requests: list[Callable[[], Any]] = [
        lambda: calls.infer(emb(model_version=version)),
        lambda: calls("ModelReady", name="emb", version=version),
        lambda: calls("ModelMetadata", name="emb", version=version),
        lambda: calls("ModelConfig", name="emb", version=version),
        lambda: calls("ModelStatistics", name="emb", version=version),
    ]
    for request in requests:
        failure = failure_of(request)
        assert failure.reason is reason
        assert message in failure.message
        assert len(failure.message.encode()) <= 256


@pytest.mark.parametrize("name", ["../etc", "a/../b", "x" * 10_000, "emb/", " ..", "a\nb", "..."])
def test_t61_a_strange_name_is_not_found(calls: Calls, name: str) -> None:
    requests: list[Callable[[], Any]] = [
        lambda: calls.infer(infer_request(name, {})),
        lambda: calls("ModelReady", name=name),
        lambda: calls("ModelMetadata", name=name),
        lambda: calls("ModelStatistics", name=name),
    ]
    for request in requests:
        failure = failure_of(request)
        assert failure.reason is Reason.MODEL_NOT_FOUND
        assert len(failure.message.encode()) <= 256


@pytest.mark.parametrize("where", ["", "inputs", "outputs"])
@pytest.mark.parametrize(
    "key", ["shared_memory_region", "shared_memory_offset", "sequence_id", "sequence_start"]
)
def test_t68_what_is_not_supported_is_unimplemented(calls: Calls, key: str, where: str) -> None:
    failure = failure_of(calls.infer, parameters(key, where=where))
    assert failure.reason is Reason.UNIMPLEMENTED
    assert CODES[failure.reason] == 12
    assert f"parameter {key!r}: " in failure.message


def test_unknown_parameters_and_no_sequence_are_ignored(calls: Calls) -> None:
    request = parameters("my_own", "binary_data_output")
    request.parameters["sequence_id"].int64_param = 0
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    assert raw_output(calls.infer(request)) == pytest.approx(FEATURES @ EMBEDDER_WEIGHTS)


def test_wrong_requests_hold_nothing_and_are_counted(calls: Calls, running: Running) -> None:
    version = running.server._repository.models["emb"].versions[0]
    assert version.loaded is not None
    before = version.counters.failed.read()[0]
    for case in ("T15 four bytes too many", "T06 an input twice"):
        failure_of(calls.infer, INVALID[case][0])
    assert version.counters.failed.read()[0] == before + 2
    assert not version.loaded.leases._leases
    admission = running.server._admission
    # gRPC's own server tells the caller before it tells us.
    assert admission.wait_idle(30)
    assert admission.bytes == 0
