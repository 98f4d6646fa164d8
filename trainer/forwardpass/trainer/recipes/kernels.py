"""kernels: what a convolution does, with weights that are written down and not learned."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, array_digest, load_golden
from forwardpass.trainer.data import photos
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.parity import answer, open_session
from forwardpass.trainer.export.published import newest_version
from forwardpass.trainer.models.kernels import KERNELS, Kernels
from forwardpass.trainer.plots.kernels import FirstLayer, filtered_pictures
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# What images are resized to, in pixels; the photographs' own extents are 427 and 640.
HEIGHT, WIDTH = 200, 300


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """kernels has no knobs of its own, and the seed changes nothing."""


@dataclass(frozen=True, slots=True)
class Data:
    """What is looked at.

    Attributes:
        images: Photographs, uint8 (2, h, w, 3).
        learned: Filters that a network has learned, to be shown beside those here; None where
            there is no such network.
    """

    images: NDArray[np.uint8]
    learned: FirstLayer | None

    def digest(self) -> str:
        """Returns the SHA-256 of the photographs."""
        return array_digest([self.images])

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of the photographs."""
        return photos.source(self.images)


def load(_settings: Settings, workspace: Workspace) -> Data:
    """Returns the photographs, and the filters of the newest mnist-cnn where there is one."""
    return Data(photos.load(HEIGHT, WIDTH), _learned(workspace))


def train(_settings: Settings, data: Data, _run: Run) -> Trained:
    """Describes the filters, of which nothing is trained."""
    images, module = data.images, Kernels()
    # As they are, mirrored, upside down, and both.
    turned = np.concatenate(
        [images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]
    )  # (8, h, w, 3)

    def evaluate() -> Evaluation:
        filtered = answer(module, {"image": images}, list(KERNELS)).outputs
        return Evaluation(
            plots={
                "filters.png": filtered_pictures(KERNELS, filtered, data.learned),
            },
        )

    return Trained(
        description="Filters a photograph in four ways: identity, Gaussian blur, sharpening "
        "and edge detection, each a convolution with 3 x 3 fixed weights.",
        reference='Gonzalez and Woods, "Digital image processing", 2018, chapter 3',
        module=module,
        inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs=dict.fromkeys(KERNELS, model_card_pb2.TENSOR_ROLE_IMAGE),
        golden_inputs={"image": turned},
        tolerance=model_card_pb2.Tolerance(relative=0, absolute=0),
        evaluate=evaluate,
    )


def _learned(workspace: Workspace) -> FirstLayer | None:
    """Returns the first layer of the newest mnist-cnn, and what it does; None where none is."""
    folder = newest_version(workspace.models, "mnist-cnn")
    if folder is None:
        return None
    model = onnx.load(folder / MODEL_FILE)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    # Its weights, which an int8 version computes too, and its sums.
    names = [first.input[1], first.output[0]]
    for name in names:
        inner = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(inner)
    digits = load_golden(folder / GOLDEN_FILE).inputs
    kernels, sums = open_session(model.SerializeToString()).run(names, dict(digits))
    return FirstLayer(kernels[:, 0], digits["image"][0, ..., 0], np.maximum(sums[0], 0))
