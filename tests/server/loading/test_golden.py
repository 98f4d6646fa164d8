"""Golden data that cannot tell a good model from a bad one."""

import numpy as np
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, embedder, model

from forwardpass.artefact import Golden
from forwardpass.server.build import open_repository
from forwardpass.server.settings import Settings
from forwardpass.v1 import model_card_pb2, tensor_pb2
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


def test_golden_data_of_a_model_without_rows_may_be_a_single_number(
    repository: Publisher,
) -> None:
    graph = model(
        [helper.make_node("Mul", ["factor", "x"], ["y"])],
        [
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
    )
    card = model_card_pb2.ModelCard(
        signature=model_card_pb2.Signature(
            inputs=[spec("factor"), spec("x", 3)], outputs=[spec("y", 3)]
        )
    )
    x = np.arange(3, dtype=np.float32)
    right = Golden({"factor": np.array(2, np.float32), "x": x}, {"y": x * 2})
    wrong = Golden({"factor": np.array(2, np.float32), "x": x}, {"y": x * 3})
    repository("right", TinyModel(graph, card, right))
    repository("wrong", TinyModel(graph, card, wrong))
    loading = open_repository(Settings(models=repository.root, threads=1, sandbox=False))
    loading.reconcile(settle=False)
    reasons = {name: loading.models[name].versions[0].state_reason for name in ("right", "wrong")}
    loading.close()
    assert reasons["right"] == ""
    assert "golden check: output 'y' is 2 off" in reasons["wrong"]


def spec(name: str, *shape: int) -> model_card_pb2.TensorSpec:
    return model_card_pb2.TensorSpec(name=name, data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape)
