"""Arrays, tables and pictures as people have them, sent to a real server."""

import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from PIL import Image
from tiny_models import Publisher, TinyModel, classifier, echo, model

from forwardpass.client import Client, InvalidInput, TensorSpec
from forwardpass.client.inputs import pictures, texts, to_arrays
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.wire import Array

KINDS = {
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in KINDS}
# What numpy chooses by itself, and is taken by its values.
BY_VALUE = ("int64", "uint64", "float64")
PIXELS = np.random.default_rng(4).integers(0, 256, (3, 4, 4, 1), np.uint8)


def mixed() -> TinyModel:
    """Gives its three inputs back: `number` (n,), `count` (n, 1) and `word` (n,)."""
    value = helper.make_tensor_value_info
    kinds: dict[str, tuple[int, list[int | str]]] = {
        "number": (TensorProto.FLOAT, ["n"]),
        "count": (TensorProto.INT64, ["n", 1]),
        "word": (TensorProto.STRING, ["n"]),
    }
    return TinyModel(
        model(
            [helper.make_node("Identity", [name], [f"same_{name}"]) for name in kinds],
            [value(name, *kind) for name, kind in kinds.items()],
            [value(f"same_{name}", *kind) for name, kind in kinds.items()],
        )
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Calls one server for all tests: no array changes it."""
    publish = Publisher(tmp_path_factory.mktemp("models"))
    for name, kind in KINDS.items():
        publish(name, echo(kind, ["n"]))
    publish("matrix", echo(TensorProto.FLOAT, ["n", "m"]))
    publish("cube", echo(TensorProto.FLOAT, ["n", "m", "k"]))
    publish("strings", echo(TensorProto.STRING, ["n"]))
    publish("mixed", mixed())
    publish("shapes", classifier())
    server = Server(Settings(models=publish.root, port=0, metrics_port=0, threads=1, sandbox=False))
    server.start()
    try:
        server.wait_loaded()
        with Client(server.address) as connected:
            yield connected
    finally:
        server.stop()


def echoed(client: Client, name: str, value: Any) -> Array:
    return client.predict(name, value).outputs["y"]


def refusal(client: Client, name: str, value: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as raised:
        client.predict(name, value)
    return raised.value


def likelihoods(client: Client, images: Any) -> Array:
    return client.predict("shapes", images=images).outputs["probabilities"]


def image_refusal(images: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as raised:
        pictures(images, invert=False)
    return raised.value


def png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


# --- Dtypes -----------------------------------------------------------------------------------


def values_of(name: str) -> st.SearchStrategy[Array]:
    shape = st.integers(1, 4)
    if name != "bfloat16":
        return arrays.arrays(DTYPES[name], shape)
    # Its bits, which hypothesis knows nothing of.
    return arrays.arrays(np.uint16, shape).map(lambda bits: bits.view(ml_dtypes.bfloat16))


def assert_same(answer: Array, expected: Array) -> None:
    """Compares arrays of one dtype; numpy knows no NaN of bfloat16."""
    assert answer.dtype == expected.dtype
    if answer.dtype == ml_dtypes.bfloat16:
        answer, expected = answer.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(answer, expected)


SAFE = [
    (given_name, stated)
    for given_name, dtype in DTYPES.items()
    for stated, other in DTYPES.items()
    if given_name not in BY_VALUE and np.can_cast(dtype, other, "safe")
]


@settings(deadline=None)
@given(data=st.data())
def test_what_a_safe_cast_sends_is_what_was_given(client: Client, data: st.DataObject) -> None:
    name, stated = data.draw(st.sampled_from(SAFE))
    array = data.draw(values_of(name))
    answer = echoed(client, stated, array)
    assert answer.dtype == DTYPES[stated]
    assert_same(answer.astype(array.dtype), array)


@settings(deadline=None)
@given(data=st.data())
def test_numbers_of_64_bits_arrive_or_are_refused(client: Client, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(BY_VALUE))
    stated = data.draw(st.sampled_from([stated for stated in DTYPES if stated != "bool"]))
    array = data.draw(values_of(name))
    try:
        answer = echoed(client, stated, array)
    except InvalidInput as error:
        assert error.field == "inputs.x"  # noqa: PT017  # it may, or may not
        assert "has no place" in error.message  # noqa: PT017
        return
    assert answer.dtype == DTYPES[stated]
    if name == "float64" and stated in {"float16", "bfloat16", "float32"}:
        with np.errstate(over="ignore"):
            assert_same(answer, array.astype(answer.dtype))
    else:
        # Python compares integers and floats exactly.
        same = [
            mine == other or (mine != mine and other != other)  # noqa: PLR0124  # NaN
            for mine, other in zip(array.tolist(), answer.tolist(), strict=True)
        ]
        assert all(same)


@pytest.mark.parametrize(
    ("stated", "array", "wrong"),
    [
        ("uint64", np.array([1, -1]), "-1"),
        ("int64", np.array([0, 1 << 63], np.uint64), "9223372036854775808"),
        ("int64", np.array([2.0**63]), "9.2233"),
        ("float64", np.array([(1 << 53) + 1]), "9007199254740993"),
        ("float64", np.array([(1 << 63) - 1]), "9223372036854775807"),
        ("float64", np.array([(1 << 64) - 1], np.uint64), "18446744073709551615"),
    ],
)
def test_a_number_of_64_bits_does_not_become_another(
    client: Client, stated: str, array: Array, wrong: str
) -> None:
    error = refusal(client, stated, array)
    assert f"takes {stated}, in which {wrong}" in error.message
    assert error.field == "inputs.x"


@pytest.mark.parametrize(
    ("stated", "array"),
    [
        ("float16", np.zeros(3, np.float32)),
        ("uint8", np.zeros(3, np.int32)),
        ("float32", np.zeros(3, np.int32)),
        ("bfloat16", np.zeros(3, np.float16)),
        ("float16", np.zeros(3, ml_dtypes.bfloat16)),
        ("bool", np.zeros(3, np.uint8)),
    ],
)
def test_what_does_not_fit_by_its_dtype_is_refused_for_any_value(
    client: Client, stated: str, array: Array
) -> None:
    error = refusal(client, stated, array)
    assert f"takes {stated}, but the values are {array.dtype.name}" in error.message
    assert error.field == "inputs.x"


@pytest.mark.parametrize(
    "dtype", [np.complex64, "datetime64[s]", [("a", np.float32)], ml_dtypes.float8_e5m2]
)
def test_what_no_tensor_holds_costs_no_question(dtype: Any) -> None:
    def specs() -> tuple[TensorSpec, ...]:
        raise AssertionError("asked")

    with pytest.raises(InvalidInput, match="a tensor cannot hold") as raised:
        to_arrays({"x": np.zeros(3, dtype)}, specs)
    assert raised.value.field == "inputs.x"


def test_the_dtypes_of_most_models_cost_no_question() -> None:
    asked = []

    def specs() -> tuple[TensorSpec, ...]:
        asked.append(1)
        return (TensorSpec("x", "float64", (-1,), "unspecified"),)

    for array in (np.zeros(2, np.float32), np.zeros(2, np.uint8), np.array(["a"], object)):
        assert to_arrays({"x": array}, specs)["x"].dtype == array.dtype
    to_arrays({"x": torch.zeros(2), "y": pd.Series([1], dtype="float32"), "z": ["text"]}, specs)
    assert not asked
    assert to_arrays({"x": np.zeros(2, np.float16)}, specs)["x"].dtype == np.float64
    assert asked


@pytest.mark.parametrize("name", [1, None, "\ud800"])
def test_a_name_that_cannot_be_sent_is_told(client: Client, name: Any) -> None:
    assert refusal(client, "float32", {name: np.zeros(1, np.float32)}).field == "inputs"


def test_other_byte_orders_arrive(client: Client) -> None:
    given_array = np.array([1.5, -2], ">f4")
    for inputs in (given_array, {"x": given_array}):
        np.testing.assert_array_equal(echoed(client, "float32", inputs), given_array)


# --- Tables -----------------------------------------------------------------------------------

TABLE = {"word": ["a", "żółw"], "count": [1, 2], "number": [0.5, 1.5]}


def _polars() -> Any:
    return pytest.importorskip("polars")


Make = Callable[[dict[str, Any]], Any]
FRAMES = [
    pytest.param(pd.DataFrame, id="pandas"),
    pytest.param(lambda table: pd.DataFrame(table).convert_dtypes(), id="pandas-nullable"),
    pytest.param(
        lambda table: pd.DataFrame(table).convert_dtypes(dtype_backend="pyarrow"), id="pandas-arrow"
    ),
    pytest.param(pa.table, id="table"),
    pytest.param(pa.RecordBatch.from_pydict, id="batch"),
    pytest.param(
        lambda table: pa.concat_tables([pa.table(table).slice(0, 1), pa.table(table).slice(1)]),
        id="chunks",
    ),
    pytest.param(lambda table: _polars().DataFrame(table), id="polars", marks=pytest.mark.heavy),
]


@pytest.mark.parametrize("make", FRAMES)
def test_the_columns_of_a_table_are_inputs_by_name(client: Client, make: Make) -> None:
    outputs = client.predict("mixed", make(TABLE)).outputs
    assert outputs["same_number"].dtype == np.float32
    np.testing.assert_array_equal(outputs["same_number"], TABLE["number"])
    np.testing.assert_array_equal(outputs["same_count"], [[1], [2]])
    assert outputs["same_word"].tolist() == TABLE["word"]


@pytest.mark.parametrize("make", FRAMES)
def test_columns_that_are_missing_or_unknown_are_named(client: Client, make: Make) -> None:
    error = refusal(client, "mixed", make({"word": ["a"], "count": [1], "numbers": [0.5]}))
    assert error.field == "inputs"
    assert "it lacks 'number'; the model has no input 'numbers'" in error.message


def test_a_column_that_is_there_twice_is_named(client: Client) -> None:
    table = pa.table([pa.array([1]), pa.array([1]), pa.array([1])], ["count", "count", "number"])
    for frame in (table, table.to_pandas()):
        assert "it has more than one 'count'" in refusal(client, "mixed", frame).message


@pytest.mark.parametrize("make", FRAMES)
def test_a_value_that_does_not_fit_is_found_in_its_column(client: Client, make: Make) -> None:
    error = refusal(client, "mixed", make({**TABLE, "count": [1.5, 2.0]}))
    assert error.field == "inputs.count"
    assert "in which 1.5 has no place" in error.message
    assert refusal(client, "mixed", make({**TABLE, "word": [1, 2]})).field == "inputs.word"


@pytest.mark.parametrize("make", FRAMES)
def test_a_table_is_the_matrix_of_its_columns(client: Client, make: Make) -> None:
    frame = make({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    for inputs in (frame, {"x": frame}):
        np.testing.assert_array_equal(echoed(client, "matrix", inputs), [[1, 0.5, 1], [2, 1.5, 0]])
    one = make({"a": [1, 2]})
    np.testing.assert_array_equal(echoed(client, "matrix", one), [[1], [2]])
    np.testing.assert_array_equal(echoed(client, "float32", one), [1, 2])
    assert echoed(client, "strings", make({"text": ["a", "b"]})).tolist() == ["a", "b"]
    error = refusal(client, "matrix", make({"a": [1, 2], "b": ["x", "y"]}))
    assert error.field == "inputs.x"
    assert "column 'b': takes float32, but the values are texts" in error.message


@pytest.mark.parametrize("make", FRAMES[1:])
def test_what_is_missing_in_a_table_is_refused(client: Client, make: Make) -> None:
    # It does not become NaN, even where floats are taken.
    error = refusal(client, "matrix", make({"a": [1, 2], "b": [0.5, None]}))
    assert error.field == "inputs.x"
    assert "column 'b': 1 missing value" in error.message
    error = refusal(client, "mixed", make({**TABLE, "word": ["a", None]}))
    assert error.field == "inputs.word"
    assert "1 missing value" in error.message


def test_what_is_missing_in_numpys_dtypes_of_pandas(client: Client) -> None:
    # In these it is NaN, a float like others.
    answer = echoed(client, "float32", pd.DataFrame({"a": [1, None]}))
    np.testing.assert_array_equal(answer, [1, np.nan])
    for column in (pd.Series([1, None], dtype=object), pd.Series(["a", None], dtype=object)):
        error = refusal(client, "strings", column)
        assert error.field == "inputs.x"
        assert "row [1] holds None" in error.message


def test_frames_without_columns_or_rows(client: Client) -> None:
    assert "no columns" in refusal(client, "matrix", pd.DataFrame()).message
    empty = to_arrays(pa.table(TABLE).slice(0, 0), mixed_specs)
    assert [array.shape for array in empty.values()] == [(0,), (0, 1), (0,)]


def mixed_specs() -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("number", "float32", (-1,), "unspecified"),
        TensorSpec("count", "int64", (-1, 1), "unspecified"),
        TensorSpec("word", "string", (-1,), "unspecified"),
    )


@pytest.mark.heavy
def test_a_query_that_was_not_run_is_told(client: Client) -> None:
    error = refusal(client, "mixed", _polars().LazyFrame(TABLE))
    assert "collect()" in error.message


# --- Columns ----------------------------------------------------------------------------------

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(ROWS, pa.list_(pa.float32(), 2)), id="fixed"),
        pytest.param(pa.array(ROWS, pa.list_(pa.float64())), id="lists"),
        pytest.param(pa.array(ROWS, pa.large_list(pa.float64())), id="large lists"),
        pytest.param(
            pa.array([[9.0, 9.0], *ROWS, [9.0, 9.0]], pa.list_(pa.float32(), 2)).slice(1, 3),
            id="slice",
        ),
        pytest.param(
            pa.array([[9.0, 9.0], *ROWS], pa.list_(pa.float32())).slice(1), id="slice of lists"
        ),
        pytest.param(
            pa.chunked_array([ROWS[:1], ROWS[1:]], pa.list_(pa.float32(), 2)), id="chunks"
        ),
        pytest.param(
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(ROWS, np.float32)), id="tensors"
        ),
        pytest.param(pd.Series([np.array(row) for row in ROWS]), id="pandas"),
        pytest.param(pd.Series(ROWS), id="pandas lists"),
    ],
)
def test_a_column_of_vectors_is_a_matrix(client: Client, column: Any) -> None:
    np.testing.assert_array_equal(echoed(client, "matrix", column), ROWS)
    # It is so too as the one column of a table.
    frame = column.to_frame("v") if isinstance(column, pd.Series) else pa.table({"v": column})
    np.testing.assert_array_equal(echoed(client, "matrix", frame), ROWS)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["Array", "List"])
def test_a_column_of_vectors_of_polars(client: Client, kind: str) -> None:
    pl = _polars()
    dtype = pl.Array(pl.Float64, 2) if kind == "Array" else pl.List(pl.Float64)
    np.testing.assert_array_equal(echoed(client, "matrix", pl.Series(ROWS, dtype=dtype)), ROWS)
    # polars itself would make it NaN.
    error = refusal(client, "matrix", pl.Series([[1.0, 2.0], [3.0, None]], dtype=dtype))
    assert "1 missing value" in error.message


@pytest.mark.heavy
@pytest.mark.timeout(60)
def test_a_column_of_structs_of_polars_is_refused(client: Client) -> None:
    error = refusal(client, "matrix", _polars().Series([{"a": 1.0}]))
    assert "unnest" in error.message


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.5, 2.5]), [1.5, 2.5]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([1, 2], pa.uint16()), [1, 2]),
        (pa.array([1, 2, 1]).dictionary_encode(), [1, 2, 1]),
        (pa.array([np.float16(1.5)], pa.float16()), [1.5]),
        (pa.chunked_array([], pa.int8()), []),
        (pd.array([1, 2], dtype="Int64"), [1, 2]),
        (pd.Index([1, 2]), [1, 2]),
        (pd.Series([1.5, 2]).astype("category"), [1.5, 2]),
    ],
)
def test_columns_of_numbers(client: Client, column: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(echoed(client, "float32", column), expected)


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        (pa.array([1, None]), "1 missing value,"),
        (pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), "1 missing value,"),
        (pa.chunked_array([[1], [None, None]], pa.int64()), "2 missing values,"),
        (pd.array([1, None], dtype="Int64"), "1 missing value,"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "1 missing value,"),
        (pa.array([[1.0], [2.0, 3.0]]), "row 1 is a list of 2 and row 0 of 1"),
        (pa.array([{"a": 1}]), "a column of struct<a: int64> is no array"),
        (pd.Series([[1.0], [2.0, 3.0]]), "row [1] has shape (2,), and row [0] has (1,)"),
        (pd.to_datetime(pd.Series(["2026-01-01"])), "a tensor cannot hold datetime64"),
    ],
)
def test_columns_without_a_place_are_refused(client: Client, column: Any, wrong: str) -> None:
    error = refusal(client, "matrix", column)
    assert wrong in error.message
    assert error.field == "inputs.x"


def test_text_columns(client: Client) -> None:
    words = ["a\0", "żółw"]
    for column in (
        pa.array(words),
        pa.array(words, pa.large_string()),
        pa.array(words).dictionary_encode(),
        pa.chunked_array([words]),
        pd.Series(words),
        pd.Series(words, dtype=object),
        np.array(words, object),
        words,
    ):
        assert echoed(client, "strings", column).tolist() == words
        assert texts(cast("Any", column)) == words
    for wrong in (pd.DataFrame({"a": words}), 7, {"a": "b"}, [7], [b"bytes"], pa.array([None])):
        with pytest.raises(InvalidInput, match="texts"):
            texts(cast("Any", wrong))


# --- Tensors of torch, and arrays of others ---------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([1.5, -2]), [1.5, -2]),
        (torch.tensor([1.5, -2], requires_grad=True), [1.5, -2]),
        (torch.nn.Parameter(torch.tensor([1.5, -2])), [1.5, -2]),
        (torch.tensor([[1.5, 0], [-2, 0]])[:, 0], [1.5, -2]),
        (torch.tensor([1.5, -2], dtype=torch.float64), [1.5, -2]),
        (torch.tensor([1.5, -2], dtype=torch.float16), [1.5, -2]),
        (torch.tensor([1.5, -2], dtype=torch.bfloat16), [1.5, -2]),
        (torch.tensor([[1.5, 0], [-2, 0]], dtype=torch.bfloat16)[:, 0], [1.5, -2]),
        (torch.tensor([True, False]), [1, 0]),
        (torch.tensor([3, 4]), [3, 4]),
        (torch.tensor([3, 4], dtype=torch.uint8), [3, 4]),
        (torch.tensor([1j, 2j]).imag, [1, 2]),
        (torch.tensor([1 + 1j]).conj().imag, [-1]),
    ],
)
def test_tensors_of_torch(client: Client, tensor: torch.Tensor, expected: list[float]) -> None:
    np.testing.assert_array_equal(echoed(client, "float32", tensor), expected)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.bfloat16, torch.float16, torch.int32, torch.uint8, torch.float32]
)
def test_a_tensor_keeps_a_dtype_that_the_model_states(client: Client, dtype: torch.dtype) -> None:
    tensor = torch.tensor([1, 0, 1], dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    for inputs in (tensor, {"x": tensor}):
        answer = echoed(client, name, inputs)
        assert answer.dtype == DTYPES[name]
        assert answer.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("tensor", "wrong"),
    [
        (torch.ones(2, 2).to_sparse(), "to_dense()"),
        (
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "to_padded_tensor",
        ),
        (torch.ones(2, device="meta"), "Tensor gives no array"),
        (torch.ones(2, dtype=torch.complex64), "a tensor cannot hold complex64"),
        (torch.ones(2, dtype=torch.float8_e5m2), "numpy has no type for a tensor of torch.float8"),
    ],
)
def test_tensors_without_a_place_are_refused(
    client: Client, tensor: torch.Tensor, wrong: str
) -> None:
    for inputs in (tensor, {"x": tensor}):
        error = refusal(client, "float32", inputs)
        assert wrong in error.message
        assert error.field == "inputs.x"


class Exported:
    """An array of a library that numpy can take over by DLPack alone."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_arrays_of_other_libraries(client: Client) -> None:
    exported: Any = Exported(np.array([1.5, 2]))
    np.testing.assert_array_equal(echoed(client, "float32", exported), [1.5, 2])


class Elsewhere:
    """An array on a device, of a library that does not copy from there by itself."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise RuntimeError("copy it yourself")


def test_a_librarys_own_error_is_told(client: Client) -> None:
    error = refusal(client, "float32", Elsewhere())
    assert error.message == "inputs.x: Elsewhere gives no array: copy it yourself"


# --- Lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [torch.tensor(row) for row in ROWS],
        [torch.tensor(row, requires_grad=True, dtype=torch.bfloat16) for row in ROWS],
        [np.array(row, np.float32) for row in ROWS],
        [pa.array(row) for row in ROWS],
        [pd.Series(row) for row in ROWS],
        [torch.tensor(ROWS[0]), np.array(ROWS[1]), ROWS[2]],
        tuple(np.array(row, np.float16) for row in ROWS),
        [[torch.tensor(item) for item in row] for row in ROWS],
        [[np.float64(item) for item in row] for row in ROWS],
    ],
)
def test_lists_of_arrays_are_stacked(client: Client, rows: Any) -> None:
    np.testing.assert_array_equal(echoed(client, "matrix", rows), ROWS)


def test_a_list_of_pictures_is_an_array_of_their_pixels(client: Client) -> None:
    held = [Image.fromarray(pixels[..., 0]) for pixels in PIXELS]
    np.testing.assert_array_equal(echoed(client, "cube", held), PIXELS[..., 0])


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([[1.0, 2.0], [3.0], [4.0]], "row [1] has shape (1,), and row [0] has (2,)"),
        ([[1.0], 2.0], "row [1] has shape (), and row [0] has (1,)"),
        ([[[1.0], [2.0]], [[3.0], [4.0, 5.0]]], "row [1][1] has shape (2,), and row [1][0] has"),
        ([np.zeros(2), np.zeros(3)], "row [1] has shape (3,), and row [0] has (2,)"),
        ([torch.zeros(2), torch.zeros(2, 1)], "row [1] has shape (2, 1), and row [0] has (2,)"),
        ([["a"], ["b", "c"]], "row [1] has shape (2,), and row [0] has (1,)"),
        ([1.0, None], "row [1] holds None"),
        ([1 << 64], "row [0] holds 18446744073709551616 (int), expected numbers of at most 64"),
        ([1.0, "a"], "row [0] holds 1.0 (float)"),
        ([object()], "row [0]: expected an array"),
        ([np.zeros(2), ["a", "b"]], "row [0][0] holds 0.0"),
    ],
)
def test_uneven_lists_are_refused_by_the_first_row_that_differs(
    client: Client, rows: Any, wrong: str
) -> None:
    error = refusal(client, "matrix", rows)
    assert wrong in error.message
    assert error.field == "inputs.x"


@pytest.mark.parametrize("value", [object(), {1, 2}, (row for row in ROWS), {1: [1.0]}])
def test_what_is_no_array_is_told(client: Client, value: Any) -> None:
    error = refusal(client, "matrix", value)
    assert error.field.startswith("inputs")
    assert "expected" in error.message


# --- Pictures ---------------------------------------------------------------------------------


def test_pictures_as_people_have_them(client: Client, tmp_path: pathlib.Path) -> None:
    expected = likelihoods(client, [png(image) for image in PIXELS])
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, image in zip(paths, PIXELS, strict=True):
        path.write_bytes(b"before" + png(image))
    opened = [path.open("rb") for path in paths]
    for file in opened:
        # Files are read from where they stand.
        file.seek(6)
    for path, image in zip(paths, PIXELS, strict=True):
        path.write_bytes(png(image))
    tensor = torch.from_numpy(PIXELS)
    for images in (
        paths,
        map(str, paths),
        pd.Series(list(map(str, paths))),
        np.array(list(map(str, paths))),
        np.array(paths, object),
        pa.array(list(map(str, paths))),
        pa.array([png(image) for image in PIXELS]),
        [pathlib.PurePosixPath(path) for path in paths],
        [bytearray(png(image)) for image in PIXELS],
        [memoryview(png(image)) for image in PIXELS],
        [io.BytesIO(png(image)) for image in PIXELS],
        (Image.fromarray(image[..., 0]) for image in PIXELS),
        tensor,
        list(tensor),
        tensor[..., 0].unbind(),
        tensor.permute(0, 3, 1, 2),
        np.moveaxis(PIXELS, 3, 1),
        iter(tensor.permute(0, 3, 1, 2)),
        [paths[0], PIXELS[1], tensor[2]],
    ):
        np.testing.assert_array_equal(likelihoods(client, images), expected)
    for one in (
        paths[0],
        bytearray(png(PIXELS[0])),
        memoryview(png(PIXELS[0])),
        io.BytesIO(png(PIXELS[0])),
        tensor[0],
        tensor[0, ..., 0],
        tensor[0].permute(2, 0, 1),
    ):
        np.testing.assert_array_equal(likelihoods(client, one), expected[:1])
    for file in opened:
        file.close()


def test_a_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"before" + png(PIXELS[0]))
    file.seek(6)
    assert pictures(file, invert=False)[0].data == png(PIXELS[0])


def test_files_that_give_no_picture_are_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(png(PIXELS[0]))
    with path.open(encoding="latin-1") as text:
        assert 'open(path, "rb")' in image_refusal(text).message
        assert text.tell() == 0
    assert image_refusal([io.StringIO("text")]).field == "images[0]"
    with path.open("rb") as file:
        file.read()
        assert "seek(0)" in image_refusal([png(PIXELS[0]), file]).message
    assert "closed file" in image_refusal(file).message
    with (tmp_path / "two.png").open("wb") as writing:
        assert "cannot be read" in image_refusal(writing).message


@pytest.mark.parametrize(
    ("mode", "colour", "stored"),
    [
        ("1", 255, "1"),
        ("L", 7, "L"),
        ("LA", (7, 9), "LA"),
        ("P", 0, "P"),
        ("RGB", (1, 2, 3), "RGB"),
        ("RGBA", (1, 2, 3, 4), "RGBA"),
        ("I;16", 700, "I;16"),
        ("I;16B", 700, "I;16"),
        ("La", (7, 9), "LA"),
        ("RGBa", (1, 2, 3, 4), "RGBA"),
        ("PA", (0, 9), "RGBA"),
        ("RGBX", (1, 2, 3, 4), "RGB"),
        ("CMYK", (1, 2, 3, 4), "RGB"),
        ("YCbCr", (1, 2, 3), "RGB"),
        ("HSV", (1, 2, 3), "RGB"),
        ("LAB", (1, 2, 3), "RGB"),
    ],
)
def test_pictures_of_every_mode(
    client: Client, mode: str, colour: float | tuple[int, ...], stored: str
) -> None:
    image = Image.new(mode, (4, 4), colour)
    (sent,) = pictures(image, invert=False)
    with Image.open(io.BytesIO(sent.data)) as back:
        assert back.mode == stored
        if mode == stored:
            assert back.getpixel((1, 1)) == image.getpixel((1, 1))
    assert likelihoods(client, image).shape == (1, 3)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_mode_that_does_not_say_what_is_white_is_refused(mode: str) -> None:
    error = image_refusal([Image.new(mode, (4, 4))])
    assert f"mode {mode} does not say which value is white" in error.message
    assert error.field == "images[0]"


def test_a_picture_that_cannot_be_read_is_told() -> None:
    noise = np.random.default_rng(4).integers(0, 256, (64, 64, 1), np.uint8)
    damaged = Image.open(io.BytesIO(png(noise)[:2000]))
    assert "cannot be read" in image_refusal(damaged).message
    assert "no pixels" in image_refusal(Image.new("L", (0, 4))).message


@pytest.mark.parametrize(
    ("images", "wrong"),
    [
        (np.zeros((3, 28, 28), np.uint8), "list(array) for several"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), "list(array) for several"),
        (np.zeros((7, 28, 28), np.uint8), "list(array) for several"),
        ([np.zeros((7, 28, 28), np.uint8)], "got uint8 (7, 28, 28)"),
        ([np.zeros((4, 4, 4), np.uint8)], "pixels[..., :3]"),
        ([torch.rand(3, 4, 4)], "scale to 0 to 255, round and convert to uint8"),
        ([np.zeros((0, 4), np.uint8)], "got uint8 (0, 4)"),
        ([np.zeros((2, 3, 4, 4), np.uint8)], "got uint8 (2, 3, 4, 4)"),
        ([[1, 2]], "got list"),
        ([None], "got NoneType"),
        (7, "got int"),
        ({"a": "b.png"}, "dict"),
        (pd.DataFrame({"path": ["a.png"]}), "give one of its columns"),
    ],
)
def test_what_is_no_picture_is_told(images: Any, wrong: str) -> None:
    error = image_refusal(images)
    assert wrong in error.message
    assert error.field.startswith("images")


def test_one_picture_with_channels_first_is_clear_in_a_list() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (3, 5, 6), np.uint8)
    (sent,) = pictures([pixels], invert=False)
    with Image.open(io.BytesIO(sent.data)) as back:
        np.testing.assert_array_equal(np.asarray(back), np.moveaxis(pixels, 0, 2))
    # Where both may be channels, they come last.
    (sent,) = pictures([pixels[:, :, :3]], invert=False)
    with Image.open(io.BytesIO(sent.data)) as back:
        np.testing.assert_array_equal(np.asarray(back), pixels[:, :, :3])
