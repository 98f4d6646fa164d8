"""A model of pictures whose vectors can be worked out with numpy."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from tiny_models import TinyModel, model

from forwardpass.pixels import open_image, to_pixels
from forwardpass.v1 import model_card_pb2, tensor_pb2
from forwardpass.wire import Array, Preparation, to_preparation

WEIGHTS = np.random.default_rng(8).normal(size=(6 * 5 * 3, 4)).astype(np.float32)


def looks(*, mixes_rows: bool = False, preparation: Preparation | None = None) -> TinyModel:
    """RGB images of 6 x 5 to a vector of four; at most 16 at a time.

    Args:
        mixes_rows: Whether a vector depends on the other rows of its run.
        preparation: What the card says is done to images, if anything.
    """
    last = [helper.make_node("MatMul", ["flat", "weights"], ["vector"])]
    if mixes_rows:
        last = [
            helper.make_node("MatMul", ["flat", "weights"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["greatest"], keepdims=0),
            helper.make_node("Div", ["product", "greatest"], ["vector"]),
        ]
    graph = model(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
            *last,
        ],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 6, 5, 3])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 4])],
        {"weights": WEIGHTS},
    )
    image = model_card_pb2.TensorSpec(
        name="image",
        data_type=tensor_pb2.DATA_TYPE_UINT8,
        shape=[-1, 6, 5, 3],
        role=model_card_pb2.TENSOR_ROLE_IMAGE,
    )
    vector = model_card_pb2.TensorSpec(
        name="vector",
        data_type=tensor_pb2.DATA_TYPE_FLOAT32,
        shape=[-1, 4],
        role=model_card_pb2.TENSOR_ROLE_EMBEDDING,
    )
    card = model_card_pb2.ModelCard(
        signature=model_card_pb2.Signature(
            inputs=[image], outputs=[vector], batched=True, max_rows=16
        ),
        image=model_card_pb2.ImageInput(
            input="image",
            height=6,
            width=5,
            channels=3,
            preparation=to_preparation(preparation) if preparation else None,
        ),
    )
    return TinyModel(graph, card)


def expected(path: Path, preparation: Preparation | None = None) -> Array:
    """Returns the vector of a picture."""
    pixels = to_pixels(open_image(path.read_bytes()), 3, (6, 5), preparation or Preparation())
    return pixels.reshape(-1).astype(np.float32) @ WEIGHTS
