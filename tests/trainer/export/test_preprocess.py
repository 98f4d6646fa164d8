"""What is put before a network, in Python and in the graph alike."""

from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn

from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.module import export_module
from forwardpass.trainer.export.onnx_file import export_onnx
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.preprocess import Columns, Pixels, Texts, as_preprocess
from forwardpass.trainer.export.sample import read_sample
from forwardpass.trainer.export.table import to_columns
from forwardpass.wire import Array, Filter, Resize

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEXTS = ["free money now", "hello dear friend", "win win WIN!"]
# As timm.data.resolve_model_data_config gives it.
TIMM = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": MEAN,
    "std": STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
}


class AsItIs(nn.Module):
    """Gives what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def check(preprocess: Any, sample: dict[str, Array]) -> Array:
    """Asserts that the graph does what Python does, and returns what the network is given."""
    graph, golden = export_module(AsItIs(), sample, preprocess, ["y"])
    (got,) = open_session(graph.SerializeToString()).run(["y"], sample)
    np.testing.assert_allclose(got, golden.outputs["y"], atol=1e-5)
    return golden.outputs["y"]


def test_pixels_are_scaled_by_channel_as_torchvision_does() -> None:
    given = check(Pixels(size=(4, 6), mean=MEAN, std=STD), {"image": IMAGES})
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
    expected = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_grey_pixels_have_one_mean() -> None:
    given = check(Pixels(size=(4, 6), mean=0.5, std=0.25), {"image": IMAGES[..., :1]})
    np.testing.assert_allclose(given[:, 0], (IMAGES[..., 0] / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("vectorizer", [CountVectorizer(), TfidfVectorizer()])
def test_texts_are_counted(vectorizer: CountVectorizer) -> None:
    given = check(Texts(vectorizer.fit(TEXTS)), read_sample({"text": TEXTS}))
    np.testing.assert_allclose(given, vectorizer.transform(TEXTS).toarray(), atol=1e-6)


def test_columns_become_features() -> None:
    frame = pd.DataFrame({"age": [20.0, 30.0, 70.0], "sex": ["m", "f", "f"]})
    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["sex"]))
    expected = columns.fit_transform(frame)
    given = check(Columns(columns), to_columns(read_sample(frame)))
    np.testing.assert_allclose(given, expected, atol=1e-5)

    table = np.arange(12.0).reshape(4, 3)
    scaler = StandardScaler().fit(table)
    given = check(Columns(scaler), to_columns({"features": table}))
    np.testing.assert_allclose(given, scaler.transform(table), atol=1e-5)


def test_columns_may_be_called_anything() -> None:
    names = ["Age (years)", "Age__years_", "variable", "größe", "joined", "linear", "0"]
    numbers = np.arange(21, dtype=np.float32).reshape(3, 7)
    frame = pd.DataFrame(numbers, columns=names).assign(**{"s e x": ["m", "f", "f"]})
    columns = make_column_transformer(("passthrough", [*range(7)]), (OneHotEncoder(), [7]))
    expected = columns.fit_transform(frame.to_numpy(object))
    sample = to_columns(read_sample(frame))
    np.testing.assert_array_equal(check(Columns(columns), sample), expected)


def test_columns_of_float64_are_rounded_in_the_graph() -> None:
    sample: dict[str, Array] = {
        "small": np.array([[0.5], [1.5]], np.float32),
        "great": np.array([[16_777_217.0], [np.nan]]),
    }
    columns = make_column_transformer(("passthrough", [0, 1]))
    columns.fit(np.concatenate([*sample.values()], axis=1))
    given = check(Columns(columns), sample)
    np.testing.assert_array_equal(given, [[0.5, 16_777_216], [1.5, np.nan]])


def taking_floats(opset: int, ir: int, rows: str | int = "n") -> onnx.ModelProto:
    """Returns a file that gives the pictures it takes as floats, channels first."""
    extents = [rows, 3, 4, 6]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, extents)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, extents)
    nodes = [helper.make_node("Identity", ["image"], ["y"])]
    return helper.make_model(
        helper.make_graph(nodes, "net", [value], [result]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir,
    )


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (21, 10)])
def test_pixels_go_before_an_onnx_file_too(opset: int, ir: int) -> None:
    model = taking_floats(opset, ir)
    preprocess = Pixels(size=(4, 6), mean=MEAN, std=STD)
    # The sample names what callers give, whatever the file calls its input.
    graph, golden, batched = export_onnx(model, {"photo": IMAGES}, preprocess, None)
    onnx.checker.check_model(graph, full_check=True)
    assert batched
    expected = preprocess.apply({"photo": IMAGES})["photo"]
    np.testing.assert_allclose(golden.outputs["y"], expected, atol=1e-5)


def test_before_a_file_for_one_number_of_rows_pixels_take_as_many() -> None:
    preprocess = Pixels(size=(4, 6))
    graph, _, batched = export_onnx(taking_floats(18, 8, 3), {"image": IMAGES}, preprocess, None)
    assert not batched
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    with pytest.raises(PublishError, match=r"takes uint8 \(2, 4, 6, 3\)\. Where a number stands"):
        export_onnx(taking_floats(18, 8, 2), {"image": IMAGES}, preprocess, None)


def test_a_file_that_takes_more_than_is_made_for_it_is_refused() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "abc"]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    model = helper.make_model(helper.make_graph(nodes, "net", values[:2], values[2:]))
    with pytest.raises(PublishError, match="the model takes a, b; preprocess makes image"):
        export_onnx(model, {"image": IMAGES}, Pixels(size=(4, 6)), None)


def test_timms_configuration_is_read_without_timm() -> None:
    pixels = as_preprocess(TIMM)
    assert pixels == Pixels(
        size=(224, 224), resize="crop", mean=MEAN, std=STD, crop=0.875, filter="bicubic"
    )
    assert isinstance(pixels, Pixels)
    assert pixels.preparation.resize is Resize.CROP
    assert pixels.preparation.filter is Filter.BICUBIC
    squashed = as_preprocess(TIMM | {"crop_mode": "squash", "crop_pct": 1.0})
    assert isinstance(squashed, Pixels)
    assert squashed.preparation.resize is Resize.STRETCH


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("imagenet", "preprocess is a str; give Pixels, Texts, Columns"),
        ({"mean": MEAN}, "preprocess has no input_size, std; a dict is read as timm's"),
        (TIMM | {"crop_mode": "border"}, "timm's crop_mode 'border' with crop_pct 0.875"),
        (TIMM | {"crop_mode": "squash"}, "'squash' with crop_pct 0.875 is not to be had"),
    ],
)
def test_other_configurations_are_refused(given: Any, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        as_preprocess(given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "stretched"}, "resize 'stretched' is unknown; there are squash and crop"),
        ({"std": (0.2, 0.0, 0.2)}, "a standard deviation is above 0"),
        ({"filter": "area"}, "filter 'area' is unknown"),
        ({"crop": 0.9}, "crop is 0.9, which needs resize crop"),
    ],
)
def test_pixels_that_no_server_prepares_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        Pixels(size=4, **changes)


@pytest.mark.parametrize(
    ("preprocess", "sample", "message"),
    [
        (Pixels(size=8), {"image": IMAGES}, r"uint8 \(n, 8, 8, 1 or 3\); the sample has image"),
        (Pixels(size=(4, 6)), {"image": IMAGES / 255}, r"has image float64 \(n, 4, 6, 3\)"),
        (Pixels(size=(4, 6), mean=(0, 1)), {"image": IMAGES}, "mean has 2 numbers.* 3 channels"),
        (Texts(CountVectorizer()), {"image": IMAGES}, r"one input of strings \(n\)"),
    ],
)
def test_a_sample_of_another_kind_is_refused(
    preprocess: Any, sample: dict[str, Array], message: str
) -> None:
    with pytest.raises(PublishError, match=message):
        preprocess.apply(sample)


def test_what_a_transformer_says_of_the_columns_is_told() -> None:
    scaler = StandardScaler().fit(np.ones((4, 3)))
    with pytest.raises(PublishError, match="StandardScaler does not take the sample, x float32"):
        Columns(scaler).apply({"x": np.ones((4, 2))})


def test_stop_words_between_the_words_of_a_pair_are_refused() -> None:
    stopping = TfidfVectorizer(stop_words="english", ngram_range=(1, 2)).fit(TEXTS)
    with pytest.raises(PublishError, match="on either side of a stop word"):
        Texts(stopping).apply(read_sample({"text": TEXTS}))
    check(Texts(TfidfVectorizer(stop_words="english").fit(TEXTS)), read_sample({"text": TEXTS}))


def test_a_vectorizer_that_has_no_graph_is_refused() -> None:
    vectorizer = CountVectorizer(tokenizer=str.split, token_pattern=None).fit(TEXTS)
    with pytest.raises(PublishError, match="CountVectorizer cannot be turned into ONNX"):
        export_module(AsItIs(), read_sample({"text": TEXTS}), Texts(vectorizer), None)
