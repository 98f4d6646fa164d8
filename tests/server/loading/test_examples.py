"""Every trial of a model takes inputs that the model takes, the best that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import TinyModel, embedder, model

from forwardpass.artefact import parse_model
from forwardpass.server.loading.examples import find_example
from forwardpass.server.loading.input_values import InputValues, input_values
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import card_signature, graph_signature
from forwardpass.server.repository.version import Version

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
KERNEL = np.random.default_rng(4).normal(size=(2, 3, 7, 7)).astype(np.float32)
NARROW = np.ones((5, 2), np.float32)
Load = Callable[..., Loaded]
node = helper.make_node


def convolution() -> TinyModel:
    """A kernel that no picture of one pixel is large enough for."""
    return TinyModel(
        model(
            [node("Conv", ["x", "kernel"], ["y"])],
            [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, "h", "w"])],
            [helper.make_tensor_value_info("y", FLOAT, ["batch", 2, "hh", "ww"])],
            {"kernel": KERNEL},
        )
    )


def narrow() -> TinyModel:
    """Takes rows of five elements, which nobody would guess, though it states any number."""
    return TinyModel(
        model(
            [node("MatMul", ["x", "weights"], ["y"])],
            [helper.make_tensor_value_info("x", FLOAT, ["n", "m"])],
            [helper.make_tensor_value_info("y", FLOAT, ["n", 2])],
            {"weights": NARROW},
        )
    )


@pytest.fixture
def load(load_version: Callable[..., Version]) -> Load:
    """Loads a model as a server would, its graph tried in the sandbox first."""

    def load(tiny: TinyModel, config: str = "") -> Loaded:
        version = load_version(tiny, config)
        assert version.loaded is not None, version.state_reason
        return version.loaded

    return load


INPUT = "input { name: 'x' data_type: TYPE_FP32 dims: [ %s ] }"
WARMUP = (
    "model_warmup { name: 'w' batch_size: 1 "
    "inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ 5 ] random_data: true } } }"
)


@pytest.mark.parametrize(
    "config",
    ["", "max_batch_size: 8", "max_batch_size: 8 " + INPUT % "3, 64, 64"],
    ids=["alone", "with a batch axis", "with extents"],
)
def test_open_extents_are_guessed_until_the_graph_takes_them(load: Load, config: str) -> None:
    loaded = load(convolution(), config)
    assert loaded.signature.batched
    assert loaded.independence.is_shown
    assert [point.rows for point in loaded.curve][:2] == [1, 2]


@pytest.mark.parametrize(
    "config",
    [f"max_batch_size: 8 {WARMUP}", "max_batch_size: 8 " + INPUT % "5"],
    ids=["by the warm-up", "by the stated extents"],
)
def test_what_nobody_would_guess_may_be_stated(load: Load, config: str) -> None:
    loaded = load(narrow(), config)
    assert loaded.independence.is_shown
    assert loaded.curve


@pytest.mark.parametrize("config", ["", "max_batch_size: 8"])
def test_a_model_that_cannot_be_measured_serves_all_the_same(load: Load, config: str) -> None:
    loaded = load(narrow(), config)
    assert not loaded.curve
    assert not loaded.batching.enabled
    assert loaded.batching.reason.startswith(
        "not probed: it takes none of the inputs that were tried: "
    )
    assert "MatMul" in loaded.batching.reason
    (answer,) = loaded.session.run(["y"], {"x": np.ones((1, 5), np.float32)})
    assert answer.tolist() == [[5, 5]]


def test_golden_data_come_before_all_else() -> None:
    tiny = embedder()
    assert tiny.card is not None
    assert tiny.golden is not None
    session = Session(tiny.graph.SerializeToString(), {}, 1)
    signature = card_signature(graph_signature(session.inputs, session.outputs), tiny.card)
    example = find_example(session, signature, tiny.golden, InputValues({}))
    features = tiny.golden.inputs["features"]
    rows = len(features)
    np.testing.assert_array_equal(example(rows)["features"], features)
    np.testing.assert_array_equal(example(rows + 1)["features"][rows], features[0])


def values_of(tiny: TinyModel) -> InputValues:
    return input_values(parse_model(tiny.graph.SerializeToString()))


def indices(*operators: str, **constants: np.ndarray) -> TinyModel:
    """Has an integer input pass some operators, then pick rows of a table of ten."""
    names = ["x", *(f"passed-{index}" for index in range(len(operators)))]
    passing = []
    for operator, given, made in zip(operators, names, names[1:], strict=False):
        attributes = {"to": TensorProto.INT32} if operator == "Cast" else {}
        more = [name for name in constants if name.startswith(operator.lower())]
        passing.append(node(operator, [given, *more], [made], **attributes))
    return TinyModel(
        model(
            [*passing, node("Gather", ["table", names[-1]], ["y"])],
            [helper.make_tensor_value_info("x", INT64, ["n", 2])],
            [helper.make_tensor_value_info("y", FLOAT, [None] * len(operators))],
            {"table": np.ones((10, 3), np.float32), **constants},
        )
    )


@pytest.mark.parametrize(
    "tiny",
    [
        indices(),
        indices("Identity", "Cast"),
        indices("Reshape", reshape=np.array([-1], np.int64)),
        indices("Unsqueeze", "Cast", unsqueeze=np.array([1], np.int64)),
    ],
)
def test_an_index_lies_within_what_it_picks_from(tiny: TinyModel) -> None:
    assert values_of(tiny).ranges == {"x": (0, 10)}


def test_a_number_of_repetitions_is_small() -> None:
    tiny = TinyModel(
        model(
            [node("Tile", ["x", "times"], ["y"])],
            [
                helper.make_tensor_value_info("x", FLOAT, ["n"]),
                helper.make_tensor_value_info("times", INT64, [1]),
            ],
            [helper.make_tensor_value_info("y", FLOAT, ["m"])],
        )
    )
    assert values_of(tiny).ranges == {"times": (1, 2)}
