"""Faces in few numbers: eigenfaces against scikit-learn's, and the autoencoder's parts."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from training import run_recipe

from forwardpass.trainer.data import faces
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import predict, recognition_accuracy, rmse
from forwardpass.trainer.models.autoencoder import Autoencoder
from forwardpass.trainer.models.pca import Pca, fit_pca
from forwardpass.trainer.models.reconstruction import EmbeddingAndReconstruction
from forwardpass.trainer.recipes.faces_autoencoder import Differences, Explained
from forwardpass.trainer.training.workspace import Workspace


@pytest.fixture(scope="module")
def data(shared: Workspace) -> Dataset:
    return faces.load(shared.cache, shared.reporter)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> tuple[Pca, torch.Tensor]:
    return fit_pca(torch.from_numpy(data.train.inputs))


def test_each_person_is_in_every_split_and_no_photo_in_two(data: Dataset) -> None:
    splits = (data.train, data.validation, data.test)

    assert [len(split) for split in splits] == [280, 40, 80]
    for split, each in zip(splits, (7, 1, 2), strict=True):
        assert np.bincount(split.targets).tolist() == [each] * 40
        assert split.inputs.shape[1:] == (faces.HEIGHT, faces.WIDTH, 1)
    photos = np.concatenate([split.inputs for split in splits])
    assert len({photo.tobytes() for photo in photos}) == 400


def test_components_are_scikit_learns_but_for_their_sign(
    data: Dataset, fitted: tuple[Pca, torch.Tensor]
) -> None:
    pca, variances = fitted
    flat = data.train.inputs.reshape(280, -1).astype(np.float64)
    theirs = PCA(n_components=40, svd_solver="full").fit(flat)

    ours = pca.components[:40].flatten(1).numpy()
    signs = np.sign((ours * theirs.components_).sum(axis=1))
    assert (np.abs(signs) == 1).all()
    assert ours * signs[:, None] == pytest.approx(theirs.components_, abs=1e-5)
    assert variances[:40].numpy() == pytest.approx(theirs.explained_variance_, rel=1e-5)
    test = data.test.inputs.reshape(80, -1)
    coordinates = pca.first(40).embed(torch.from_numpy(data.test.inputs)).detach().numpy()
    assert coordinates * signs == pytest.approx(theirs.transform(test), abs=0.05)


def test_all_components_draw_what_they_are_of_and_fewer_draw_less(
    data: Dataset, fitted: tuple[Pca, torch.Tensor]
) -> None:
    pca, _ = fitted
    errors = []
    for count in (5, 20, 80, 279):
        _, drawn = predict(EmbeddingAndReconstruction(pca.first(count)), data.train.inputs)
        errors.append(rmse(drawn, data.train.inputs))

    assert errors[-1] == 0
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[2]


def test_forty_numbers_tell_who_it_is(data: Dataset, fitted: tuple[Pca, torch.Tensor]) -> None:
    pca, _ = fitted

    assert recognition_accuracy(EmbeddingAndReconstruction(pca.first(40)), data) > 0.95
    assert recognition_accuracy(EmbeddingAndReconstruction(pca.first(1)), data) < 0.5


@pytest.mark.parametrize("components", [24, 500])
def test_more_components_than_photos_have_are_refused(
    components: int, workspace: Workspace
) -> None:
    with pytest.raises(SettingError, match=f"components={components}: 24 photographs have .* 23"):
        run_recipe("faces-pca", workspace, f"components={components}", "limit=24")
    assert not workspace.models.exists()


def test_the_autoencoders_extents_and_count() -> None:
    network = Autoencoder(torch.zeros(112, 92, 1), 40)

    convolutions = (1, 16), (16, 32), (32, 64), (64, 128), (128, 64), (64, 32), (32, 16), (16, 1)
    linear = (128 * 7 * 6 + 1) * 40 + (40 + 1) * 128 * 7 * 6
    expected = linear + sum((9 * inputs + 1) * outputs for inputs, outputs in convolutions)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 629_673
    embedding, drawn = EmbeddingAndReconstruction(network)(
        torch.zeros(2, 112, 92, 1, dtype=torch.uint8)
    )
    assert embedding.shape == (2, 40)
    assert (drawn.shape, drawn.dtype) == ((2, 112, 92, 1), torch.uint8)


def test_explained_is_1_for_perfect_drawings_and_0_for_the_mean_face(
    data: Dataset, fitted: tuple[Pca, torch.Tensor]
) -> None:
    pca, _ = fitted
    explained = Explained(pca.mean.detach(), data.validation.inputs)
    images = torch.from_numpy(data.validation.inputs)

    def share(network: Pca) -> float:
        explained.reset()
        explained.update(Differences(network)(images), images)
        return explained.compute().item()

    def perfect(count: int) -> Pca:
        every, _ = fit_pca(images)
        return every.first(count)

    assert share(perfect(39)) == pytest.approx(1, abs=1e-4)
    assert share(pca.first(0)) == pytest.approx(0, abs=1e-4)
    assert 0 < share(pca.first(5)) < share(pca.first(40)) < 1
