"""scikit-learn's estimators, as people fit them."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.estimator import export_estimator
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.sample import read_sample

X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
LETTERS = np.array(["a", "b", "c"])[np.arange(30) % 3]
TEXTS = ["free money now", "hello dear friend", "win win WIN!", ""]
FRAME = pd.DataFrame({"age": X[:, 0] * 10 + 40, "sex": ["m", "f"] * 15, "visits": range(30)})


def check(estimator: Any, inputs: Any, outputs: list[str] | None = None) -> tuple[Any, Any]:
    """Asserts that the graph answers as scikit-learn does, and returns the answers and classes."""
    graph, golden, labels = export_estimator(estimator, read_sample(inputs), outputs)
    answers = open_session(graph.SerializeToString()).run(list(golden.outputs), golden.inputs)
    for expected, got in zip(golden.outputs.values(), answers, strict=True):
        assert got.dtype == expected.dtype
        if expected.dtype == object:
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, atol=1e-5)
    return golden.outputs, labels


def test_a_classifier_answers_with_its_labels_and_their_probabilities() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, LETTERS)
    outputs, labels = check(model, {"features": X.astype(float)})
    assert labels == ("a", "b", "c")
    assert outputs["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(outputs["probabilities"], model.predict_proba(X), atol=1e-6)


def test_classes_that_are_numbers_are_labels_too() -> None:
    model = RandomForestClassifier(3, random_state=0).fit(X, np.arange(30) % 2)
    outputs, labels = check(model, {"features": X})
    assert labels == ("0", "1")
    assert outputs["label"].dtype == np.int64


def test_a_regressor_and_a_transformer_answer_with_numbers() -> None:
    value, _ = check(LinearRegression().fit(X, X[:, 0]), {"features": X})
    assert {name: array.shape for name, array in value.items()} == {"value": (30, 1)}
    vectors, _ = check(PCA(2).fit(X), {"features": X}, ["embedding"])
    assert {name: array.shape for name, array in vectors.items()} == {"embedding": (30, 2)}


def test_columns_of_a_data_frame_are_inputs_of_their_own() -> None:
    columns = make_column_transformer(
        (StandardScaler(), ["age", "visits"]), (OneHotEncoder(), ["sex"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, LETTERS)
    _, labels = check(model, FRAME)
    assert labels == ("a", "b", "c")
    with pytest.raises(PublishError, match="fitted to the columns age, sex, visits; the sample"):
        check(model, FRAME[["age", "sex"]])


def test_columns_of_one_type_may_be_one_table_to_the_estimator() -> None:
    numbers = FRAME[["visits", "age"]]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers, LETTERS)
    # The order is that of the estimator, whatever the sample's is.
    check(model, numbers[["age", "visits"]])
    words = pd.DataFrame({"sex": ["m", "f"] * 15, "letter": LETTERS})
    check(make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, LETTERS), words)

    mixed = FRAME[["sex", "visits"]]
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(mixed, LETTERS)
    with pytest.raises(PublishError, match="begin the pipeline with a ColumnTransformer"):
        check(model, mixed)


def test_the_graph_states_how_many_values_a_regressor_answers_with() -> None:
    model = RandomForestRegressor(3, random_state=0).fit(X, X[:, :2])
    graph, _, _ = export_estimator(model, {"features": X}, None)
    (output,) = open_session(graph.SerializeToString()).get_outputs()
    assert output.shape == ["n", 2]


def test_of_a_search_the_best_is_published() -> None:
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2)
    _, labels = check(search.fit(TEXTS, [1, 0, 1, 0]), {"text": TEXTS})
    assert labels == ("0", "1")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            X[:, :2],
            r"LogisticRegression does not take the sample, x float32 \(n, 2\): X has 2 feat",
        ),
        (
            np.array(["a", "b"], object),
            "string .*A pipeline of texts begins with a CountVectorizer",
        ),
    ],
)
def test_what_an_estimator_says_of_the_sample_is_told(sample: Any, message: str) -> None:
    model = LogisticRegression().fit(X, LETTERS)
    with pytest.raises(PublishError, match=message):
        export_estimator(model, {"x": sample}, None)


def test_a_pipeline_of_texts_counts_them_one_at_a_time() -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [1, 0, 1, 0])
    graph, _, _ = export_estimator(model, read_sample({"text": TEXTS}), None)
    assert "Loop" in {node.op_type for node in graph.graph.node}
    check(model, {"text": TEXTS})


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            LogisticRegression(),
            "LogisticRegression: This LogisticRegression instance is not fitted",
        ),
        (LinearSVC(), "LinearSVC is no classifier of one label with predict_proba"),
        (KMeans(2, n_init=1), "KMeans is no classifier"),
        (
            make_pipeline(FunctionTransformer(np.tanh), LogisticRegression()),
            "Pipeline cannot be turned into ONNX: .*FunctionTransformer.*that skl2onnx knows",
        ),
    ],
)
def test_what_has_no_graph_is_refused(estimator: Any, message: str) -> None:
    if "not fitted" not in message:
        estimator.fit(X, LETTERS)
    with pytest.raises(PublishError, match=message):
        export_estimator(estimator, {"features": X}, None)


def test_names_of_outputs_must_be_as_many() -> None:
    model = LogisticRegression().fit(X, LETTERS)
    message = "LogisticRegression gives label, probabilities; outputs names 1"
    with pytest.raises(PublishError, match=re.escape(message)):
        export_estimator(model, {"features": X}, ["y"])


def test_pictures_are_no_columns() -> None:
    model = LinearRegression().fit(X, X[:, 0])
    with pytest.raises(PublishError, match=r"'x' is float32 \(n, 2, 2\); scikit-learn's columns"):
        export_estimator(model, {"x": X.reshape(30, 2, 2)}, None)
