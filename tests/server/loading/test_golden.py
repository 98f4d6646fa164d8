"""Golden data that cannot tell a good model from a bad one."""

import numpy as np
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, embedder, model

from forwardpass.artefact import Golden
from forwardpass.server.build import open_repository
from forwardpass.server.settings import Settings
from forwardpass.wire import Array


def reason_of(repository: Publisher, weights: Array) -> str:
    """Why an embedder of these weights fails, whose golden answers are its own."""
    good = embedder()
    graph = model(
        [helper.make_node("MatMul", ["features", "weights"], ["embedding"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])],
        {"weights": weights},
    )
    assert good.golden is not None
    features = good.golden.inputs["features"]
    golden = Golden(good.golden.inputs, {"embedding": features @ weights})
    repository("emb", TinyModel(graph, good.card, golden))
    loading = open_repository(Settings(models=repository.root, threads=1, sandbox=False))
    loading.reconcile(settle=False)
    reason = loading.models["emb"].versions[0].state_reason
    loading.close()
    return reason


def test_t128_a_model_that_gives_nothing_but_nan_is_refused(repository: Publisher) -> None:
    weights = np.full((4, 3), np.nan, np.float32)
    assert reason_of(repository, weights) == "golden check: every output is NaN throughout"


def test_a_model_that_gives_nan_among_others_is_not(repository: Publisher) -> None:
    weights = np.ones((4, 3), np.float32)
    weights[:, 0] = np.nan
    assert reason_of(repository, weights) == ""
