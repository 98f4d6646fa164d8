"""EmbeddingTransformer keeps what scikit-learn asks of transformers."""

import pickle
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import StartServer
from looking_models import expected, looks
from onnx import TensorProto, helper
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from tiny_models import EMBEDDER_WEIGHTS, Publisher, TinyModel, classifier, embedder, model

from forwardpass.client import ModelNotFound, WrongTask
from forwardpass.client.sklearn import EmbeddingTransformer
from forwardpass.pixels import encode_png
from forwardpass.v1 import model_card_pb2, tensor_pb2

# Which transport answers is no matter here.
pytestmark = pytest.mark.parametrize("transport", ["completion_queue"])
ROWS = np.random.default_rng(3).normal(size=(100, 4))


def extremes() -> TinyModel:
    """Rows of any length to their least and greatest number."""
    graph = model(
        [
            helper.make_node("ReduceMin", ["x", "axes"], ["least"]),
            helper.make_node("ReduceMax", ["x", "axes"], ["greatest"]),
            helper.make_node("Concat", ["least", "greatest"], ["vector"], axis=1),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "d"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 2])],
        {"axes": np.array([1], np.int64)},
    )
    spec, roles = model_card_pb2.TensorSpec, model_card_pb2.TensorRole
    kind = tensor_pb2.DATA_TYPE_FLOAT32
    card = model_card_pb2.ModelCard(
        signature=model_card_pb2.Signature(
            inputs=[spec(name="x", data_type=kind, shape=[-1, -1])],
            outputs=[
                spec(
                    name="vector",
                    data_type=kind,
                    shape=[-1, 2],
                    role=roles.TENSOR_ROLE_EMBEDDING,
                )
            ],
            batched=True,
        )
    )
    return TinyModel(graph, card)


@pytest.fixture
def address(repository: Publisher, start_server: StartServer) -> str:
    repository("extremes", extremes())
    repository("emb", embedder())
    repository("looks", looks())
    repository("clf", classifier())
    return start_server().address


def test_scikit_learn_s_own_checks_pass(address: str) -> None:
    """All of them: none is expected to fail, and one is for environments of another kind."""
    transformer = EmbeddingTransformer("extremes", address)
    passed, skipped = [], []
    checks: Iterator[Any] = estimator_checks_generator(transformer, legacy=True)
    for estimator, check in checks:
        try:
            check(estimator)
        except unittest.SkipTest:
            skipped.append(check.func.__name__)
        else:
            passed.append(check.func.__name__)
    assert len(passed) > 40
    assert "check_transformer_general" in passed
    assert skipped == ["check_array_api_input"]


def test_rows_become_vectors(address: str) -> None:
    transformer = EmbeddingTransformer("emb", address)
    vectors = transformer.fit_transform(ROWS)
    np.testing.assert_allclose(vectors, ROWS @ EMBEDDER_WEIGHTS, rtol=1e-4, atol=1e-5)
    assert transformer.kind_ == "rows"
    assert transformer.n_features_in_ == 4
    same = pickle.loads(pickle.dumps(transformer)).transform(ROWS)
    np.testing.assert_array_equal(same, vectors)
    frame = transformer.set_output(transform="pandas").transform(ROWS[:3])
    assert list(frame.columns) == [f"embeddingtransformer{place}" for place in range(3)]
    assert list(transformer.get_feature_names_out()) == list(frame.columns)


def test_pictures_become_vectors(address: str, tmp_path: Path) -> None:
    paths = []
    for number in range(70):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode_png(pixels))
    transformer = EmbeddingTransformer("looks", address)
    vectors = transformer.fit_transform(paths)
    assert transformer.kind_ == "images"
    right = np.stack([expected(path) for path in paths])
    np.testing.assert_allclose(vectors, right, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(transformer.transform(list(map(str, paths))), vectors)


def test_a_model_of_one_row_gets_one_at_a_time(
    repository: Publisher, start_server: StartServer
) -> None:
    tiny = extremes()
    for value in (tiny.graph.graph.input[0], tiny.graph.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert tiny.card is not None
    tiny.card.signature.batched = False
    for tensor in (*tiny.card.signature.inputs, *tiny.card.signature.outputs):
        tensor.shape[0] = 1
    repository("one", tiny)
    address = start_server().address
    vectors = EmbeddingTransformer("one", address).fit_transform(ROWS)
    np.testing.assert_allclose(vectors, np.stack([ROWS.min(1), ROWS.max(1)], 1), rtol=1e-5)


def test_it_stands_in_pipelines_and_in_other_processes(address: str) -> None:
    labels = ROWS @ EMBEDDER_WEIGHTS[:, 0] > 0
    pipeline = make_pipeline(EmbeddingTransformer("emb", address), LogisticRegression(C=100))
    scores = cross_val_score(pipeline, ROWS, labels, cv=4, n_jobs=2, error_score="raise")
    assert scores.mean() > 0.9
    assert clone(pipeline).fit(ROWS, labels).score(ROWS, labels) > 0.9


def test_what_cannot_be_is_said(address: str, repository: Publisher) -> None:
    transformer = EmbeddingTransformer("emb", address)
    with pytest.raises(NotFittedError):
        transformer.transform(ROWS)
    with pytest.raises(ModelNotFound, match="no model 'nothing'"):
        EmbeddingTransformer("nothing", address).fit(ROWS)
    with pytest.raises(WrongTask, match="no embedding output"):
        EmbeddingTransformer("clf", address).fit(np.zeros((2, 16)))
    transformer.fit(ROWS)
    with pytest.raises(ValueError, match="3 features, but EmbeddingTransformer is expecting 4"):
        transformer.transform(ROWS[:, :3])
    with pytest.raises(ValueError, match="0 images: at least one"):
        EmbeddingTransformer("looks", address).fit([])
    transformer.space_id_ = "another"
    with pytest.raises(ValueError, match="was fitted with those of another: fit again"):
        transformer.transform(ROWS)
