"""Small networks that learn from pictures of one's own alone, as three recipes train them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules import Module
from torch.optim import SGD, AdamW, Optimizer

from forwardpass.trainer.data.augment import crop_and_flip, jitter
from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.fashion import FashionCnn
from forwardpass.trainer.models.initial import initialize
from forwardpass.trainer.models.lenet import LeNet
from forwardpass.trainer.models.resnet import cifar_resnet
from forwardpass.wire import Array

# Pictures that are looked at at a time.
_BATCH = 256
# Pictures of one colour have no deviation to divide by.
_LEAST = 1e-3

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of pixels in [0, 1], of each channel (channels)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture, and how its recipe trains it.

    Attributes:
        size: Height and width of its pictures, in pixels.
        channels: Of its pictures.
        rate: The learning rate at its highest.
        reference: The paper that it is from.
        build: From the pictures' statistics and the number of classes to the network.
        optimize: From the network and the learning rate to what changes its weights.
        augment: From the pictures' mean to what changes those of a step.
    """

    size: int
    channels: int
    rate: float
    reference: str
    build: Callable[[Statistics, int], EmbeddingNetwork]
    optimize: Callable[[Module, float], Optimizer]
    augment: Callable[[NDArray[np.float64]], Augment]


def statistics(images: Array) -> Statistics:
    """Returns the statistics of pictures, uint8 (n, height, width, channels)."""
    total, squares = np.zeros(images.shape[3]), np.zeros(images.shape[3])
    for start in range(0, len(images), _BATCH):
        pixels = images[start : start + _BATCH] / 255
        total += pixels.sum(axis=(0, 1, 2))
        squares += np.square(pixels).sum(axis=(0, 1, 2))
    count = images[..., 0].size
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0)
    return Statistics(mean, np.maximum(np.sqrt(variance), _LEAST))


def _lenet(pixels: Statistics, classes: int) -> EmbeddingNetwork:
    return LeNet(float(pixels.mean[0]), float(pixels.deviation[0]), classes=classes)


def _fashion(pixels: Statistics, classes: int) -> EmbeddingNetwork:
    return FashionCnn(float(pixels.mean[0]), float(pixels.deviation[0]), 0.3, classes)


def _resnet(pixels: Statistics, classes: int) -> EmbeddingNetwork:
    return initialize(cifar_resnet(20, pixels.mean.tolist(), pixels.deviation.tolist(), classes))


def _adam(network: Module, rate: float) -> Optimizer:
    return AdamW(network.parameters(), rate)


def _descent(network: Module, rate: float) -> Optimizer:
    return SGD(network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _turned(_mean: NDArray[np.float64]) -> Augment:
    return partial(jitter, shift=1.5, degrees=10, scale=0.1)


def _mirrored(border: int) -> Callable[[NDArray[np.float64]], Augment]:
    """Returns what moves pictures and mirrors half of them; beyond their edge is their mean."""

    def augment(mean: NDArray[np.float64]) -> Augment:
        return partial(crop_and_flip, border=border, fill=[round(255 * value) for value in mean])

    return augment


NETWORKS = {
    "resnet-20": Network(
        size=32,
        channels=3,
        rate=0.1,
        reference='He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, '
        "section 4.2",
        build=_resnet,
        optimize=_descent,
        augment=_mirrored(4),
    ),
    "fashion": Network(
        size=28,
        channels=1,
        rate=3e-3,
        reference='Simonyan and Zisserman, "Very deep convolutional networks for large-scale image '
        'recognition", 2014',
        build=_fashion,
        optimize=_adam,
        augment=_mirrored(2),
    ),
    "lenet": Network(
        size=28,
        channels=1,
        rate=3e-3,
        reference='LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document '
        'recognition", 1998',
        build=_lenet,
        optimize=_adam,
        augment=_turned,
    ),
}
