"""Networks with random weights, published to measure speed with: their answers mean nothing.

Time depends on shapes, not on weights, as long as no value overflows or vanishes.
"""

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, load_golden
from forwardpass.trainer.export.int8 import make_int8
from forwardpass.trainer.export.release import Published, Trained, release, release_int8
from forwardpass.trainer.models.resnet import LogitsAndEmbedding, imagenet_resnet
from forwardpass.trainer.seeds import derive, seed_everything
from forwardpass.trainer.settings import Settings
from forwardpass.trainer.workspace import Workspace
from forwardpass.v1 import model_card_pb2

# Images of noise that batch normalisation and integers get their statistics from.
_IMAGES, _BATCH = 16, 4


def publish_resnet(depth: int, workspace: Workspace, seed: int = 0) -> Published:
    """Publishes the next version of resnet-DEPTH, with random weights; its card says so.

    Args:
        depth: One of `models.resnet.IMAGENET_DEPTHS`.
        workspace: Where to.
        seed: Of the weights.

    Raises:
        ParityError: ONNX Runtime answers otherwise than torch.
        PublishError: The version could not be written.
    """
    seed_everything(seed, "weights")
    network = imagenet_resnet(depth)
    _settle(network, _noise(_IMAGES, seed, "statistics"))
    return release(
        Trained(
            recipe="",
            name=f"resnet-{depth}",
            description=f"UNTRAINED: a residual network of {depth} layers with random weights, to "
            "measure speed with. It takes 224 x 224 RGB images; its answers mean nothing.",
            reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", '
            "2015, with the stride at the 3 x 3 convolution of a bottleneck",
            settings=Settings(seed=seed),
            module=LogitsAndEmbedding(network),
            inputs={"image": model_card_pb2.TENSOR_ROLE_IMAGE},
            outputs={
                "logits": model_card_pb2.TENSOR_ROLE_LOGITS,
                "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
            },
            golden_inputs={"image": _noise(4, seed, "golden")},
            metrics={},
            source=None,
            tolerance=model_card_pb2.Tolerance(relative=1e-3, absolute=1e-3),
            plots={},
        ),
        workspace,
    )


def quantize_untrained(parent: Published, workspace: Workspace) -> Published:
    """Publishes an int8 version of what `publish_resnet` published; there is no accuracy to keep.

    Raises:
        PublishError: The version could not be written.
    """
    images = _noise(_IMAGES, parent.card.seed, "statistics")
    int8 = make_int8(
        onnx.load(parent.folder / MODEL_FILE),
        load_golden(parent.folder / GOLDEN_FILE).inputs,
        [{"image": batch} for batch in np.split(images, _IMAGES // _BATCH)],
        workspace.reporter,
    )
    quantization = model_card_pb2.Quantization(calibration_rows=_IMAGES)
    return release_int8(parent, int8, {}, quantization, workspace)


def _noise(rows: int, seed: int, purpose: str) -> NDArray[np.uint8]:
    draw = np.random.default_rng(derive(seed, "noise", purpose))
    return draw.integers(0, 256, (rows, 224, 224, 3), dtype=np.uint8)


@torch.inference_mode()
def _settle(network: nn.Module, images: NDArray[np.uint8]) -> None:
    """Sets batch normalisation's statistics to those of the images, as training would.

    With a mean of 0 and a variance of 1 instead each block would double the variance.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # nothing of the old statistics stays
    network.train()
    network(torch.from_numpy(images))
