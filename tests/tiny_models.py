"""Real ONNX models that are small enough to read: built node by node, published as artefacts.

Their answers can be worked out by hand or with numpy, which is what the tests compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forwardpass.artefact import (
    CARD_KEY,
    GOLDEN_FILE,
    MODEL_FILE,
    Golden,
    card_to_json,
    save_golden,
    write_manifest,
)
from forwardpass.v1 import model_card_pb2, tensor_pb2
from forwardpass.wire import Array

_RNG = np.random.default_rng(5)
CLASSIFIER_WEIGHTS = _RNG.normal(size=(16, 3)).astype(np.float32)
EMBEDDER_WEIGHTS = _RNG.normal(size=(4, 3)).astype(np.float32)
GENERATOR_WEIGHTS = _RNG.normal(size=(5, 16)).astype(np.float32)
LABELS = ("circle", "square", "cross")
CHARACTERS = ("\n", "a", "b", "é", "—")
# Of the writer: from a character, and from the state before, to the state; from that to scores.
WRITER_WEIGHTS = {
    "from_token": _RNG.normal(size=(5, 3)).astype(np.float32),
    "from_state": _RNG.normal(size=(3, 3)).astype(np.float32),
    "to_scores": 2 * _RNG.normal(size=(3, 5)).astype(np.float32),
}


@dataclass(frozen=True)
class TinyModel:
    """A graph, its card if it has one, and a golden example."""

    graph: onnx.ModelProto
    card: model_card_pb2.ModelCard | None = None
    golden: Golden | None = None


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """Returns a checked model of the nodes."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def softmax(scores: Array) -> Array:
    """The reference for the classifier's last step."""
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def _value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _spec(
    name: str,
    data_type: "tensor_pb2.DataType.ValueType",
    shape: Sequence[int],
    role: "model_card_pb2.TensorRole.ValueType",
) -> model_card_pb2.TensorSpec:
    return model_card_pb2.TensorSpec(name=name, data_type=data_type, shape=shape, role=role)


def _card(
    inputs: list[model_card_pb2.TensorSpec],
    outputs: list[model_card_pb2.TensorSpec],
    **fields: Any,
) -> model_card_pb2.ModelCard:
    return model_card_pb2.ModelCard(
        description="A model for tests.",
        signature=model_card_pb2.Signature(
            inputs=inputs, outputs=outputs, batched=True, max_rows=64
        ),
        tolerance=model_card_pb2.Tolerance(relative=1e-5, absolute=1e-5),
        **fields,
    )


def classifier(bias: float = 0.0) -> TinyModel:
    """A softmax over 4 x 4 greyscale images; `bias` favours the last class."""
    offsets = np.array([0, 0, bias], np.float32)
    graph = model(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "scale"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        [_value("image", TensorProto.UINT8, ["n", 4, 4, 1])],
        [_value("probabilities", TensorProto.FLOAT, ["n", 3])],
        {"scale": np.array(255, np.float32), "weights": CLASSIFIER_WEIGHTS, "bias": offsets},
    )
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 1), np.uint8)
    probabilities = softmax(images.reshape(5, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS + offsets)
    card = _card(
        [
            _spec(
                "image", tensor_pb2.DATA_TYPE_UINT8, (-1, 4, 4, 1), model_card_pb2.TENSOR_ROLE_IMAGE
            )
        ],
        [
            _spec(
                "probabilities",
                tensor_pb2.DATA_TYPE_FLOAT32,
                (-1, 3),
                model_card_pb2.TENSOR_ROLE_PROBABILITIES,
            )
        ],
        labels=LABELS,
        image=model_card_pb2.ImageInput(input="image", height=4, width=4, channels=1),
    )
    golden = Golden({"image": images}, {"probabilities": probabilities.astype(np.float32)})
    return TinyModel(graph, card, golden)


def embedder() -> TinyModel:
    """Four features to a vector of three."""
    graph = model(
        [helper.make_node("MatMul", ["features", "weights"], ["embedding"])],
        [_value("features", TensorProto.FLOAT, ["n", 4])],
        [_value("embedding", TensorProto.FLOAT, ["n", 3])],
        {"weights": EMBEDDER_WEIGHTS},
    )
    features = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    card = _card(
        [
            _spec(
                "features",
                tensor_pb2.DATA_TYPE_FLOAT32,
                (-1, 4),
                model_card_pb2.TENSOR_ROLE_FEATURES,
            )
        ],
        [
            _spec(
                "embedding",
                tensor_pb2.DATA_TYPE_FLOAT32,
                (-1, 3),
                model_card_pb2.TENSOR_ROLE_EMBEDDING,
            )
        ],
    )
    return TinyModel(
        graph, card, Golden({"features": features}, {"embedding": features @ EMBEDDER_WEIGHTS})
    )


def generator() -> TinyModel:
    """A latent of five to a 4 x 4 greyscale image."""
    graph = model(
        [
            helper.make_node("MatMul", ["latent", "weights"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["grey"]),
            helper.make_node("Mul", ["grey", "scale"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["bytes"], to=TensorProto.UINT8),
            helper.make_node("Reshape", ["bytes", "shape"], ["images"]),
        ],
        [_value("latent", TensorProto.FLOAT, ["n", 5])],
        [_value("images", TensorProto.UINT8, ["n", 4, 4, 1])],
        {
            "weights": GENERATOR_WEIGHTS,
            "scale": np.array(255, np.float32),
            "shape": np.array([-1, 4, 4, 1], np.int64),
        },
    )
    card = _card(
        [_spec("latent", tensor_pb2.DATA_TYPE_FLOAT32, (-1, 5), model_card_pb2.TENSOR_ROLE_LATENT)],
        [
            _spec(
                "images",
                tensor_pb2.DATA_TYPE_UINT8,
                (-1, 4, 4, 1),
                model_card_pb2.TENSOR_ROLE_IMAGE,
            )
        ],
    )
    return TinyModel(graph, card)


def echo(kind: int, shape: Sequence[int | str]) -> TinyModel:
    """Gives its input `x` back as `y`; any ONNX element type, no card."""
    return TinyModel(
        model(
            [helper.make_node("Identity", ["x"], ["y"])],
            [_value("x", kind, shape)],
            [_value("y", kind, shape)],
        )
    )


def picker() -> TinyModel:
    """Gives row `index` of a table of four: an index of 4 or more makes the graph fail."""
    return TinyModel(
        model(
            [helper.make_node("Gather", ["table", "index"], ["value"])],
            [_value("index", TensorProto.INT64, ["n"])],
            [_value("value", TensorProto.FLOAT, ["n"])],
            {"table": np.arange(4, dtype=np.float32)},
        )
    )


def divider(kind: int, divisor: Array | None = None, opset: int = 18) -> TinyModel:
    """Divides `a` by `b`, which may be a constant; no card, and no golden data."""
    constants = {} if divisor is None else {"b": divisor}
    given = [] if constants else [_value("b", kind, ["m"])]
    return TinyModel(
        model(
            [helper.make_node("Div", ["a", "b"], ["y"])],
            [_value("a", kind, ["n"]), *given],
            [_value("y", kind, ["k"])],
            constants,
            opset,
        )
    )


def maker() -> TinyModel:
    """Makes an array of the shape that it is told: ONNX Runtime fails at a negative extent."""
    return TinyModel(
        model(
            [helper.make_node("ConstantOfShape", ["shape"], ["zeros"])],
            [_value("shape", TensorProto.INT64, [1])],
            [_value("zeros", TensorProto.FLOAT, ["n"])],
        )
    )


def gallery() -> TinyModel:
    """Gives its images back, of any size: one without pixels cannot be sent as PNG."""
    graph = model(
        [helper.make_node("Identity", ["pixels"], ["images"])],
        [_value("pixels", TensorProto.UINT8, ["n", "h", "w", 1])],
        [_value("images", TensorProto.UINT8, ["n", "h", "w", 1])],
    )
    kind, shape = tensor_pb2.DATA_TYPE_UINT8, (-1, -1, -1, 1)
    card = _card(
        [_spec("pixels", kind, shape, model_card_pb2.TENSOR_ROLE_UNSPECIFIED)],
        [_spec("images", kind, shape, model_card_pb2.TENSOR_ROLE_IMAGE)],
    )
    pixels = np.zeros((1, 2, 2, 1), np.uint8)
    return TinyModel(graph, card, Golden({"pixels": pixels}, {"images": pixels}))


def stepper() -> TinyModel:
    """A step of a sum: gives `total` + `x` as `next`, and twice that as `y`."""
    graph = model(
        [
            helper.make_node("Add", ["total", "x"], ["next"]),
            helper.make_node("Add", ["next", "next"], ["y"]),
        ],
        [
            _value("x", TensorProto.FLOAT, ["n", 1]),
            _value("total", TensorProto.FLOAT, ["n", 1]),
        ],
        [_value("y", TensorProto.FLOAT, ["n", 1]), _value("next", TensorProto.FLOAT, ["n", 1])],
    )
    kind, features, state = (
        tensor_pb2.DATA_TYPE_FLOAT32,
        model_card_pb2.TENSOR_ROLE_FEATURES,
        model_card_pb2.TENSOR_ROLE_STATE,
    )
    card = _card(
        [_spec("x", kind, (-1, 1), features), _spec("total", kind, (-1, 1), state)],
        [
            _spec("y", kind, (-1, 1), model_card_pb2.TENSOR_ROLE_VALUES),
            _spec("next", kind, (-1, 1), state),
        ],
    )
    card.signature.states.add(input="total", output="next")
    return TinyModel(graph, card)


def writer() -> TinyModel:
    """A step of a text generator of five characters, whose state holds three numbers."""
    graph = model(
        [
            helper.make_node("Gather", ["from_token", "token"], ["new"]),
            helper.make_node("MatMul", ["h", "from_state"], ["old"]),
            helper.make_node("Add", ["new", "old"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["next_h"]),
            helper.make_node("MatMul", ["next_h", "to_scores"], ["logits"]),
        ],
        [_value("token", TensorProto.INT64, ["n"]), _value("h", TensorProto.FLOAT, ["n", 3])],
        [
            _value("logits", TensorProto.FLOAT, ["n", 5]),
            _value("next_h", TensorProto.FLOAT, ["n", 3]),
        ],
        WRITER_WEIGHTS,
    )
    number, real = tensor_pb2.DATA_TYPE_INT64, tensor_pb2.DATA_TYPE_FLOAT32
    state = model_card_pb2.TENSOR_ROLE_STATE
    card = _card(
        [
            _spec("token", number, (-1,), model_card_pb2.TENSOR_ROLE_TOKEN),
            _spec("h", real, (-1, 3), state),
        ],
        [
            _spec("logits", real, (-1, 5), model_card_pb2.TENSOR_ROLE_LOGITS),
            _spec("next_h", real, (-1, 3), state),
        ],
        labels=CHARACTERS,
    )
    card.signature.states.add(input="h", output="next_h")
    return TinyModel(graph, card)


def busy() -> TinyModel:
    """Takes as many steps as it is told, each a multiplication of 64 x 64 matrices.

    How long that takes is the machine's affair; a million steps outlast any test's patience.
    """
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["going_on"]),
        ],
        "step",
        [
            _value("step", TensorProto.INT64, []),
            _value("go_on", TensorProto.BOOL, []),
            _value("state", TensorProto.FLOAT, [64, 64]),
        ],
        [_value("going_on", TensorProto.BOOL, []), _value("next", TensorProto.FLOAT, [64, 64])],
    )
    graph = model(
        [
            helper.make_node("Loop", ["steps", "", "matrix"], ["last"], body=body),
            helper.make_node("Shape", ["last"], ["size"]),
        ],
        [_value("steps", TensorProto.INT64, [])],
        [_value("size", TensorProto.INT64, [2])],
        {"matrix": np.eye(64, dtype=np.float32)},
    )
    return TinyModel(graph)


def endless() -> TinyModel:
    """Takes a step after another, whatever its input, and will outlast any patience."""
    tiny = busy()
    # As many as it is told are not those that it takes.
    tiny.graph.graph.node[0].input[0] = "many"
    tiny.graph.graph.initializer.append(
        helper.make_tensor("many", TensorProto.INT64, [], [1 << 40])
    )
    return tiny


@dataclass(frozen=True)
class Publisher:
    """Writes tiny models into a repository as the trainer would."""

    root: Path

    def __call__(
        self, name: str, tiny: TinyModel, version: int = 1, *, manifest: bool | None = None
    ) -> Path:
        """Publishes a model and returns its folder; a manifest where the model has a card."""
        folder = self.root / name / str(version)
        folder.mkdir(parents=True)
        graph = onnx.ModelProto()
        graph.CopyFrom(tiny.graph)
        if tiny.card is not None:
            graph.metadata_props.add(key=CARD_KEY, value=card_to_json(tiny.card))
        (folder / MODEL_FILE).write_bytes(graph.SerializeToString())
        if tiny.golden is not None:
            save_golden(folder / GOLDEN_FILE, tiny.golden)
        if manifest if manifest is not None else tiny.card is not None:
            write_manifest(folder)
        return folder
