"""Networks with random weights, published to measure with and to look at: answers mean nothing.

Time depends on shapes, not on weights, as long as no value overflows or vanishes.
"""

import numpy as np
import onnx
import torch
from torch import nn

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, load_golden
from forwardpass.trainer.export.card import Evaluation, Provenance, Trained
from forwardpass.trainer.export.int8 import make_int8
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.export.release import release, release_int8
from forwardpass.trainer.models.initial import initialize, settle
from forwardpass.trainer.training.seeds import derive, seed_everything
from forwardpass.trainer.training.settings import Settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.trainer.zoo import Architecture
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# Images of noise that batch normalisation and integers get their statistics from.
_IMAGES, _BATCH = 16, 4
# Narrow perceptrons answer many features with 0: enough rows show that they do more than that.
_GOLDEN_IMAGES, _GOLDEN_FEATURES = 4, 16


def publish_untrained(architecture: Architecture, workspace: Workspace, seed: int = 0) -> Published:
    """Publishes the next version of a network of the zoo, with random weights; its card says so.

    Args:
        architecture: Which; the model has its name.
        workspace: Where to.
        seed: Of the weights.

    Raises:
        ParityError: ONNX Runtime answers otherwise than torch.
        PublishError: The version could not be written.
    """
    seed_everything(seed, "weights")
    network = initialize(architecture.build())
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        noise = _noise(_IMAGES, architecture.shape, seed, "statistics")
        settle(network, torch.from_numpy(noise))
    (name,) = architecture.inputs
    rows = _GOLDEN_IMAGES if architecture.takes_images else _GOLDEN_FEATURES
    return release(
        architecture.name,
        Trained(
            description=f"UNTRAINED: {architecture.summary}, with random weights; its answers "
            "mean nothing.",
            reference=architecture.reference,
            module=architecture.served(network),
            inputs=architecture.inputs,
            outputs=architecture.outputs,
            golden_inputs={name: _noise(rows, architecture.shape, seed, "golden")},
            tolerance=model_card_pb2.Tolerance(relative=1e-3, absolute=1e-3),
        ),
        Evaluation(),
        Provenance("", Settings(seed=seed), None),
        workspace,
    )


def quantize_untrained(parent: Published, workspace: Workspace) -> Published:
    """Publishes an int8 version of an untrained network; there is no accuracy to keep.

    Args:
        parent: A network that takes images.
        workspace: Where it was published.

    Raises:
        PublishError: The version could not be written.
    """
    (image,) = parent.card.signature.inputs
    images = _noise(_IMAGES, tuple(image.shape[1:]), parent.card.seed, "statistics")
    int8 = make_int8(
        onnx.load(parent.folder / MODEL_FILE),
        load_golden(parent.folder / GOLDEN_FILE).inputs,
        [{image.name: batch} for batch in np.split(images, _IMAGES // _BATCH)],
        workspace.reporter,
    )
    quantization = model_card_pb2.Quantization(calibration_rows=_IMAGES)
    return release_int8(parent, int8, {}, quantization, workspace)


def _noise(rows: int, shape: tuple[int, ...], seed: int, purpose: str) -> Array:
    """Returns so many inputs: uint8 images of any pixels, or features of mean 0 and deviation 1."""
    draw = np.random.default_rng(derive(seed, "noise", purpose))
    if len(shape) == 3:
        return draw.integers(0, 256, (rows, *shape), dtype=np.uint8)
    return draw.standard_normal((rows, *shape), dtype=np.float32)
