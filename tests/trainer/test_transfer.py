"""Features that were learned elsewhere, and the heads on them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training import Publish

from forwardpass.trainer.data import cifar10
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.models.embedding import EmbeddingNetwork
from forwardpass.trainer.models.enlarged import Enlarged
from forwardpass.trainer.recipes.transfer import Embedder, Settings, load_photos
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace


def test_features_of_imagenet_tell_cats_from_dogs_and_pixels_do_not(publish_once: Publish) -> None:
    metrics = publish_once("transfer").card.metrics

    assert metrics["accuracy"] > 0.7
    for other in ("random_weights_accuracy", "raw_pixels_accuracy"):
        assert metrics["accuracy"] > metrics[other] + 0.1


def test_it_is_one_network_with_a_head_of_two_classes(publish_once: Publish) -> None:
    card = publish_once("transfer").card

    assert card.parameters == 25_583_592 - (2048 + 1) * 1000 + (2048 + 1) * 2
    assert list(card.labels) == ["cat", "dog"]
    (image,) = card.signature.inputs
    assert list(image.shape) == [-1, 32, 32, 3]


def test_rows_are_a_cat_and_a_dog_in_turn_and_the_test_rows_are_all(workspace: Workspace) -> None:
    data = load_photos(Settings(labels=30), workspace)
    other = load_photos(Settings(labels=30, seed=1), workspace)
    full = cifar10.load(workspace.cache, workspace.reporter)

    assert data.train.targets.tolist() == [0, 1] * 30
    assert np.bincount(data.test.targets).tolist() == [1000, 1000]
    dogs = full.test.inputs[full.test.targets == cifar10.LABELS.index("dog")]
    assert (data.test.inputs[data.test.targets == 1] == dogs).all()
    assert not np.array_equal(data.train.inputs, other.train.inputs)


def test_decay_must_be_above_0() -> None:
    with pytest.raises(SettingError, match="decay=0: give a number above 0"):
        parse_settings(Settings, ["decay=0"])


class StoppedError(Exception):
    """As if the run was killed."""


class Brightness(EmbeddingNetwork):
    """Embeds an image in its mean colour, as often as it may."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.batches = batches

    def embed(self, image: Tensor) -> Tensor:
        if not self.batches:
            raise StoppedError
        self.batches -= 1
        return image.mean(dim=(1, 2))


def test_enlarging_leaves_the_mean_colour_and_the_head(workspace: Workspace) -> None:
    network = Brightness(1)
    image = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)

    enlarged = Enlarged(network, 64)
    embeddings = enlarged.embed(image)

    torch.testing.assert_close(embeddings, image.float().mean(dim=(1, 2)), rtol=0.02, atol=0)
    assert enlarged.head is network.head


def test_features_that_were_kept_are_not_computed_again(workspace: Workspace) -> None:
    data = load_photos(
        Settings(labels=60, limit=120), workspace
    )  # 240 images, five batches of 50 or less
    workspace.runs.mkdir(parents=True)
    embedder = Embedder(data, Settings(accelerator="cpu"), Run(workspace.runs, workspace.reporter))

    with pytest.raises(StoppedError):
        embedder.embed(Brightness(3), "some")
    resumed = embedder.embed(Brightness(2), "some")

    expected = data.test.inputs.astype(np.float32).mean(axis=(1, 2))
    assert resumed.test.inputs == pytest.approx(expected, rel=0.02)
    assert len(resumed.train) == 120
    again = embedder.embed(Brightness(0), "some")
    assert np.array_equal(again.train.inputs, resumed.train.inputs)
