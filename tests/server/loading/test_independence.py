"""Requests share a run only where rows are known not to depend on one another."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import StartServer
from onnx import NodeProto, TensorProto, helper, numpy_helper
from structlog.testing import capture_logs
from tiny_models import Publisher, TinyModel, classifier

from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.repository.version import Version
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

FLOAT, HALF, INT64, STRING = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.STRING,
)
DYNAMIC = "max_batch_size: 16 dynamic_batching {}"
ROWS, TIMES = ("n", 4), ("n", 4, 4)
Load = Callable[..., Loaded]
node = helper.make_node


def whole(
    nodes: Sequence[NodeProto],
    kind: int = FLOAT,
    shape: Sequence[int | str | None] = ROWS,
    constants: Mapping[str, Array] | None = None,
    answer: tuple[int, Sequence[int | str | None]] | None = None,
) -> TinyModel:
    """Returns a graph from x to y, of no known origin."""
    output, extents = answer or (kind, shape)
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", output, extents)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    domains = {"": 18, "ai.onnx.ml": 3, "com.microsoft": 1}
    imports = [helper.make_opsetid(name, version) for name, version in domains.items()]
    return TinyModel(helper.make_model(graph, opset_imports=imports, ir_version=10))


def axes(*numbers: int) -> Mapping[str, Array]:
    return {"axes": np.array(numbers, np.int64)}


def by_the_greatest(shape: Sequence[int | str | None] = ROWS) -> TinyModel:
    """x / max(1, the greatest of all x)."""
    return whole(
        [
            node("ReduceMax", ["x"], ["greatest"], keepdims=0),
            node("Max", ["greatest", "one"], ["divisor"]),
            node("Div", ["x", "divisor"], ["y"]),
        ],
        shape=shape,
        constants={"one": np.array(1, np.float32)},
    )


def faintly_centred() -> TinyModel:
    """(x - the mean of the rows) * 1e-6."""
    return whole(
        [
            node("ReduceMean", ["x", "axes"], ["mean"]),
            node("Sub", ["x", "mean"], ["centred"]),
            node("Mul", ["centred", "faint"], ["y"]),
        ],
        constants={**axes(0), "faint": np.array(1e-6, np.float32)},
    )


def never_seen() -> TinyModel:
    """Adds the greatest of all x, beyond a bound that no trial comes near."""
    return whole(
        [
            node("ReduceMax", ["x"], ["greatest"], keepdims=0),
            node("Sub", ["greatest", "far"], ["beyond"]),
            node("Relu", ["beyond"], ["added"]),
            node("Add", ["x", "added"], ["y"]),
        ],
        constants={"far": np.array(1e9, np.float32)},
    )


def gram(kind: int) -> TinyModel:
    """x times itself turned, times x: each row with every other."""
    return whole(
        [
            node("Transpose", ["x"], ["turned"], perm=[1, 0]),
            node("MatMul", ["x", "turned"], ["products"]),
            node("MatMul", ["products", "x"], ["y"]),
        ],
        kind,
    )


def embedded() -> TinyModel:
    """Picks rows of a table, which indices must lie within, and adds them up."""
    table = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    return whole(
        [
            node("Cast", ["x"], ["index"], to=TensorProto.INT32),
            node("Gather", ["table", "index"], ["vectors"]),
            node("ReduceSum", ["vectors", "axes"], ["y"], keepdims=0),
        ],
        INT64,
        ("n", 5),
        {"table": table, **axes(-2)},
        (FLOAT, ("n", 8)),
    )


def normalized(axis: int) -> TinyModel:
    return whole([node("Softmax", ["x"], ["y"], axis=axis)])


def turned_and_reduced(axis: int) -> TinyModel:
    """Subtracts the greatest along an axis from what has its rows on axis 1."""
    return whole(
        [
            node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
            node("ReduceMax", ["turned", "axes"], ["greatest"]),
            node("Sub", ["turned", "greatest"], ["less"]),
            node("Transpose", ["less"], ["y"], perm=[1, 0, 2]),
        ],
        shape=TIMES,
        constants=axes(axis),
    )


def flattened_by_its_shape() -> TinyModel:
    """A product of extents is no product of elements."""
    return whole(
        [
            node("Shape", ["x"], ["extents"], start=1),
            node("ReduceProd", ["extents"], ["width"], keepdims=1),
            node("Concat", ["rows", "width"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["y"]),
        ],
        shape=TIMES,
        constants={"rows": np.array([-1], np.int64)},
        answer=(FLOAT, ("n", "m")),
    )


def sequence() -> TinyModel:
    """A recurrent network, whose axis 0 is time."""
    random = np.random.default_rng(2)
    weights = {
        name: random.normal(size=(1, 6, k)).astype(np.float32) for name, k in (("w", 4), ("r", 2))
    }
    return whole(
        [node("GRU", ["x", "w", "r"], ["y"], hidden_size=2)],
        shape=("time", "n", 4),
        constants=weights,
        answer=(FLOAT, ("time", 1, "n", 2)),
    )


def of_long_weights() -> TinyModel:
    """Products with a matrix that nobody needs to see to know of which shape they are."""
    return whole(
        [
            node("MatMul", ["x", "weights"], ["products"]),
            node("Softmax", ["products"], ["y"], axis=-1),
        ],
        constants={"weights": np.ones((4, 2000), np.float32)},
        answer=(FLOAT, ("n", 2000)),
    )


def without_names() -> TinyModel:
    """As `never_seen`, where no axis has a name, of an axis that nothing is known of."""
    return whole(
        [
            node("Reshape", ["x", "flat"], ["all"]),
            node("ReduceMax", ["all", "axes"], ["greatest"], keepdims=0),
            node("Sub", ["greatest", "far"], ["beyond"]),
            node("Relu", ["beyond"], ["added"]),
            node("Add", ["x", "added"], ["y"]),
        ],
        shape=(None, None),
        constants={
            **axes(0),
            "flat": np.array([-1], np.int64),
            "far": np.array(1e9, np.float32),
        },
    )


def in_a_branch() -> TinyModel:
    """A reduction within a graph within the graph."""
    branches = {
        name: helper.make_graph(
            [
                node("ReduceMax", ["x", "axes"], ["greatest"]),
                node(operator, ["x", "greatest"], [name]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(name, FLOAT, None)],
        )
        for name, operator in (("then_branch", "Sub"), ("else_branch", "Add"))
    }
    return whole(
        [node("If", ["chosen"], ["y"], **branches)],
        constants={**axes(0), "chosen": np.array(True)},
    )


def labelled() -> TinyModel:
    names = node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["cat", "dog"],
        values_int64s=[1, 2],
    )
    return whole([names], STRING, ("n", 1), answer=(INT64, ("n", 1)))


def elementwise(kind: int, shape: Sequence[int | str | None] = ROWS) -> TinyModel:
    return whole([node("Neg", ["x"], ["y"])], kind, shape)


def quantized() -> TinyModel:
    return whole(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
    )


@pytest.fixture
def load(load_version: Callable[..., Version]) -> Load:
    """Loads a model as a server would, with what its config.pbtxt says."""

    def load(tiny: TinyModel, config: str = "") -> Loaded:
        version = load_version(tiny, config, sandbox=False)
        assert version.loaded is not None, version.state_reason
        return version.loaded

    return load


INDEPENDENT = {
    "elementwise": elementwise(FLOAT),
    "elementwise of halves": elementwise(HALF),
    "elementwise of integers": elementwise(INT64),
    "rows without a name": elementwise(FLOAT, (None, 4)),
    "indices": embedded(),
    "texts": labelled(),
    "softmax along the last axis": normalized(-1),
    "softmax along axis 1": normalized(1),
    "softmax of products with long weights": of_long_weights(),
    "reduced along an axis that was turned to the front": turned_and_reduced(0),
    "extents multiplied": flattened_by_its_shape(),
}
DEPENDENT = {
    "divided by the greatest": (by_the_greatest(), "a row of 'y' differs by 1 beside others"),
    "centred, faintly": (faintly_centred(), "a row of 'y' differs"),
    "beyond what is tried": (never_seen(), "ReduceMax 'greatest' looks along axis 0"),
    "axes without names": (without_names(), "ReduceMax 'greatest' looks along axis 0"),
    "every row with every other": (gram(FLOAT), "a row of 'y' differs"),
    "every row with every other, in halves": (gram(HALF), "a row of 'y' differs"),
    "softmax along axis 0": (normalized(0), "a row of 'y' differs"),
    "reduced along the rows, wherever they are": (turned_and_reduced(1), "a row of 'y' differs"),
    "a sequence": (sequence(), "a row of 'y' differs"),
    "in a graph within the graph": (in_a_branch(), "a row of 'y' differs"),
    "quantized by the range of all rows": (quantized(), "a row of 'y' differs"),
    "the greatest of numbers without an axis": (by_the_greatest(("n",)), "a row of 'y' differs"),
}


@pytest.mark.parametrize("tiny", INDEPENDENT.values(), ids=INDEPENDENT.keys())
def test_rows_that_are_independent_are_found_to_be(load: Load, tiny: TinyModel) -> None:
    loaded = load(tiny)
    assert loaded.independence.reason == ""
    assert loaded.signature.batched
    assert loaded.independence.rows == 3
    assert loaded.independence.difference < 1e-4


@pytest.mark.parametrize(("tiny", "why"), DEPENDENT.values(), ids=DEPENDENT.keys())
def test_rows_that_are_not_share_no_run(load: Load, tiny: TinyModel, why: str) -> None:
    loaded = load(tiny)
    assert not loaded.signature.batched
    assert not loaded.batching.enabled
    assert loaded.batching.reason.startswith(f"rows depend on one another: {why}")


def test_a_row_that_is_the_same_beside_others_may_still_be_looked_at(load: Load) -> None:
    """The structure alone tells of what no trial comes near; an operator may know better."""
    assert load(never_seen(), DYNAMIC).batching.enabled


def test_dynamic_batching_is_off_where_a_run_disproves_it(load: Load) -> None:
    with capture_logs() as lines:
        loaded = load(by_the_greatest(), DYNAMIC)
    assert not loaded.batching.enabled
    assert loaded.signature.batched
    assert loaded.signature.max_rows == 16
    (told,) = [line for line in lines if line["event"] == "dynamic_batching_is_off"]
    assert told["log_level"] == "warning"
    assert told["model"] == "whole"
    assert "rows depend on one another" in told["reason"]


def test_a_stated_batch_axis_alone_gathers_nothing_that_is_not_shown(load: Load) -> None:
    loaded = load(never_seen(), "max_batch_size: 16")
    assert loaded.signature.batched
    assert loaded.batching.reason.startswith("rows depend on one another: ReduceMax")


@pytest.mark.parametrize(
    ("shape", "config", "why"),
    [
        ((1, 4), "", "axis 0 is fixed: 'x' has the shape [1, 4]"),
        (ROWS, "max_batch_size: 0", "stated off: max_batch_size is 0 in config.pbtxt"),
    ],
)
def test_why_nothing_is_gathered_is_told_apart(
    load: Load, shape: Sequence[int | str], config: str, why: str
) -> None:
    assert load(elementwise(FLOAT, shape), config).batching.reason == why


def test_rows_that_nothing_was_found_out_about_are_not_gathered(load: Load) -> None:
    """No three rows alike can be told apart: of the one index there is, nothing is shown."""
    table = np.ones((1, 8), np.float32)
    pick = [node("Gather", ["table", "x"], ["y"])]
    loaded = load(whole(pick, INT64, ("n",), {"table": table}, (FLOAT, ("n", 8))))
    assert loaded.batching.reason == "not probed: all that it takes is alike"


def test_several_inputs_need_one_name_for_their_rows(load: Load) -> None:
    tiny = elementwise(FLOAT)
    tiny.graph.graph.node[0].CopyFrom(node("Add", ["x", "z"], ["y"]))
    tiny.graph.graph.input.append(helper.make_tensor_value_info("z", FLOAT, ("m", 4)))
    assert load(tiny).batching.reason == "not probed: the inputs do not give their axis 0 one name"


@pytest.mark.parametrize("tiny", [by_the_greatest(), faintly_centred()])
def test_answers_are_the_same_alone_and_beside_others(
    repository: Publisher, start_server: StartServer, tiny: TinyModel
) -> None:
    repository("whole", tiny)
    running = start_server()
    random = np.random.default_rng(3)
    rows = (random.normal(size=(400, 1, 4)) * 10.0 ** random.integers(-3, 4, (400, 1, 1))).astype(
        np.float32
    )

    def predict(row: Array) -> bytes:
        request = PredictRequest(model=ModelReference(name="whole"), inputs={"x": to_tensor(row)})
        answer: bytes = from_tensor(running.inference.Predict(request).outputs["y"]).tobytes()
        return answer

    alone = [predict(row) for row in rows]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(predict, rows)) == alone


def test_how_far_rows_were_apart_is_told(repository: Publisher, start_server: StartServer) -> None:
    golden = repository("clf", classifier())
    repository("whole", elementwise(FLOAT))
    repository("fixed", elementwise(FLOAT, (1, 4)))
    running = start_server()
    assert golden

    def told(name: str) -> Any:
        request = GetModelRequest(model=ModelReference(name=name))
        return running.models.GetModel(request).model

    assert told("clf").row_independence.rows == told("clf").golden.rows
    assert told("clf").row_independence.max_relative_difference < 1e-5
    assert told("whole").row_independence.rows == 3
    assert not told("fixed").HasField("row_independence")
