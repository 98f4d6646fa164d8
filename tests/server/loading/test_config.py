"""Whatever a config.pbtxt sets is honoured, told, or refused."""

import re
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto, helper
from open_inference.calls import Calls, infer_request
from structlog.testing import capture_logs
from tiny_models import Publisher, TinyModel, echo, model

from forwardpass.server.loading.config_text import ConfigError, read_text
from forwardpass.server.repository.version import Version
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Reason, to_tensor

FLOAT = TensorProto.FLOAT
Load = Callable[[TinyModel, str], Version]
OUTPUT = "output { name: 'y' data_type: TYPE_FP32 dims: [ %s ] %s }"
INPUT = "input { name: 'x' data_type: TYPE_FP32 dims: [ %s ] }"


@pytest.fixture
def load(load_version: Callable[..., Version]) -> Load:
    """Loads a model as a server would, with what its config.pbtxt says."""
    return partial(load_version, sandbox=False)


def two_outputs() -> TinyModel:
    """Gives its input back, negated, under two names."""
    rows = ["n", "m"]
    return TinyModel(
        model(
            [helper.make_node("Neg", ["x"], [name]) for name in ("y", "z")],
            [helper.make_tensor_value_info("x", FLOAT, rows)],
            [helper.make_tensor_value_info(name, FLOAT, rows) for name in ("y", "z")],
        )
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("max_batchsize: 8", "'max_batchsize' (did you mean 'max_batch_size'?)"),
        (
            "dynamic_batching { max_queue_delay_us: 5 }",
            "'dynamic_batching.max_queue_delay_us' (did you mean 'max_queue_delay_microseconds'?)",
        ),
        (
            "dynamic_batching { default_queue_policy: { max_queue: 5 } }",
            "'dynamic_batching.default_queue_policy.max_queue' (did you mean 'max_queue_size'?)",
        ),
        ("input [ { name: 'x' }, { name: 'z' shape: [ 1 ] } ]", "'input.shape'"),
        ("input [ { name: 'x' dims < 1 > } ]", "config.pbtxt"),
        (
            "model_warmup { inputs { key: 'x' value { dim: 4 } } }",
            "'model_warmup.inputs.value.dim'",
        ),
        ("parameters { key: 'a' value { text: 'b' } }", "'parameters.value.text'"),
    ],
)
def test_a_name_that_is_no_field_is_a_mistake_at_any_depth(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_text(text.encode())
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("", ()),
        ("max_batch_size: 8 # optimization", ()),
        ("name: 'a: b { c' optimization { graph { level: 1 } }", ("optimization",)),
        ("instance_group [ { count: 2 gpus: [ 0, 1 ] } ]", ("instance_group.gpus",)),
        (
            "instance_group [ { count: 1 }, { rate_limiter { priority: 2 } } ]",
            ("instance_group.rate_limiter",),
        ),
        (
            "dynamic_batching { preferred_batch_size: [ 4, 8 ] preserve_ordering: true }",
            ("dynamic_batching.preferred_batch_size", "dynamic_batching.preserve_ordering"),
        ),
        ("dynamic_batching { default_queue_policy { timeout_action: REJECT } }", ()),
        (
            "dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
            ("dynamic_batching.default_queue_policy.timeout_action",),
        ),
    ],
)
def test_what_has_no_effect_is_told(text: str, ignored: tuple[str, ...]) -> None:
    assert read_text(text.encode()).ignored == ignored


@pytest.mark.parametrize(
    "name", ["sequence_batching {}", "input { is_non_linear_format_io: true }"]
)
def test_what_would_change_answers_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="would change answers and is not supported"):
        read_text(name.encode())


def test_a_warning_names_the_model_and_the_field(load: Load) -> None:
    with capture_logs() as lines:
        load(echo(FLOAT, ["n", 3]), "dynamic_batching { preserve_ordering: true }")
    (told,) = [line for line in lines if line["event"] == "config_field_ignored"]
    assert told["log_level"] == "warning"
    assert (told["model"], told["field"]) == ("whole", "dynamic_batching.preserve_ordering")


def test_a_configuration_in_the_folder_of_a_version_is_told(
    repository: Publisher, start_server: StartServer
) -> None:
    (repository("real", echo(FLOAT, ["n", 3])) / "config.pbtxt").write_text("max_batch_size: 8")
    with capture_logs() as lines:
        start_server()
    (told,) = [line for line in lines if line["event"] == "config_ignored"]
    assert (told["model"], told["version"], told["log_level"]) == ("real", 1, "warning")


def test_stated_extents_are_those_of_the_model(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("real", two_outputs()).parent
    stated = "max_batch_size: 8 " + INPUT % "16" + OUTPUT % ("16", "")
    (folder / "config.pbtxt").write_text(stated)
    running = start_server()
    calls = Calls(running.channel)
    described = calls("ModelMetadata", name="real")
    assert [(one.name, one.shape) for one in described.inputs] == [("x", [-1, 16])]
    assert [(one.name, one.shape) for one in described.outputs] == [("y", [-1, 16])]
    answer = calls.infer(infer_request("real", {"x": np.ones((1, 16), np.float32)}))
    assert [output.name for output in answer.outputs] == ["y"]
    failure = failure_of(calls.infer, infer_request("real", {"x": np.ones((1, 17), np.float32)}))
    assert failure.reason is Reason.INVALID_INPUT
    assert "has shape [1, 17], but the model takes [-1, 16]" in failure.message


def test_an_input_that_is_not_stated_beside_others_is_missed(load: Load) -> None:
    tiny = TinyModel(
        model(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            [helper.make_tensor_value_info(name, FLOAT, ["n", 3]) for name in ("x", "w")],
            [helper.make_tensor_value_info("y", FLOAT, ["n", 3])],
        )
    )
    version = load(tiny, "max_batch_size: 8 " + INPUT % "3")
    assert version.failed
    assert "states inputs, but not 'w', which the graph takes too" in version.state_reason


def classes(running: Running) -> list[str]:
    request = PredictRequest(
        model=ModelReference(name="real"),
        inputs={"x": to_tensor(np.array([[1, 3, 2], [9, 7, 8]], np.float32))},
        top_k=2,
    )
    given = running.inference.Predict(request).classifications
    return [f"{one.label}:{one.probability:g}" for row in given for one in row.classes]


def test_labels_alone_name_classes_and_turn_nothing_off(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("real", echo(FLOAT, ["n", 3])).parent
    (folder / "classes.txt").write_bytes("\ufeffa\r\nb\u2028c\r\nd\r\n".encode())
    (folder / "config.pbtxt").write_text(OUTPUT % ("3", "label_filename: 'classes.txt'"))
    running = start_server()
    assert classes(running) == ["b\u2028c:3", "d:2", "a:9", "d:8"]
    described = running.models.GetModel(GetModelRequest(model=ModelReference(name="real"))).model
    assert described.signature.batched
    assert described.class_labels == ["a", "b\u2028c", "d"]
    request = infer_request("real", {"x": np.array([[1, 3, 2], [9, 7, 8]], np.float32)})
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    (raw,) = Calls(running.channel).infer(request).raw_output_contents
    assert "3.000000:1:b\u2028c".encode() in raw
    assert b"9.000000:0:a" in raw


@pytest.mark.parametrize(
    ("data", "named"),
    [("é\nb".encode("utf-16"), "UTF-16"), ("a\né".encode("latin-1"), r"Latin-1 .*\(line 2\)")],
)
def test_labels_of_another_encoding_are_refused_by_its_name(
    load: Load, repository: Publisher, data: bytes, named: str
) -> None:
    folder = repository.root / "whole"
    folder.mkdir()
    (folder / "classes.txt").write_bytes(data)
    version = load(echo(FLOAT, ["n", 3]), OUTPUT % ("3", "label_filename: 'classes.txt'"))
    assert version.failed
    assert re.search(f"classes.txt is not UTF-8, but {named}", version.state_reason)
    assert not [one for one in threading.enumerate() if one.name.startswith("worker-")]


def test_parameters_travel_with_the_configuration(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("real", echo(FLOAT, ["n", 3])).parent
    (folder / "config.pbtxt").write_text(
        "parameters { key: 'team' value { string_value: 'vision' } }"
    )
    config = Calls(start_server().channel)("ModelConfig", name="real").config
    assert config.parameters["team"].string_value == "vision"
    assert config.parameters["forwardpass.digest"].string_value


@pytest.mark.parametrize(
    ("policy", "asked", "expected"),
    [
        ("", None, None),
        ("", 3.0, 3.0),
        ("default_timeout_microseconds: 200000", None, 0.2),
        ("default_timeout_microseconds: 200000", 0.1, 0.2),
        ("default_timeout_microseconds: 200000 allow_timeout_override: true", 0.1, 0.1),
        ("default_timeout_microseconds: 200000 allow_timeout_override: true", 3.0, 0.2),
    ],
)
def test_how_long_a_request_may_wait(
    load: Load, policy: str, asked: float | None, expected: float | None
) -> None:
    config = f"max_batch_size: 1 dynamic_batching {{ default_queue_policy {{ {policy} }} }}"
    loaded = load(echo(FLOAT, ["n", 3]), config).loaded
    assert loaded is not None
    assert loaded.config.timeout(asked) == expected
