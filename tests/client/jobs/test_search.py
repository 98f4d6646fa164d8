"""Searching a job's vectors, finding what is there twice, drawing them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from run_commands import Command
from tiny_models import Publisher, embedder

from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.geometry import unit
from forwardpass.client.jobs.vectors import JobVectors
from forwardpass.pixels import decode_image

from .conftest import MakePictures


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("forwardpass.client.jobs.plan.MAX_SHARD_ROWS", 32)
    return command


@pytest.fixture
def out(command: Command, model: Path, pictures: MakePictures, tmp_path: Path) -> Path:
    """A job of 100 pictures, of which one is there twice."""
    root, out = pictures(100), tmp_path / "out"
    shutil.copy(root / "cats" / "00000.png", root / "dogs" / "copy.png")
    assert command("embed", root, "--model", model, "--out", out).code == 0
    return out


def test_neighbours_are_those_that_a_matrix_product_finds(out: Path) -> None:
    vectors = JobVectors(JobFolder.open(out))
    whole = np.concatenate([block for _, block in vectors.blocks()])
    numbers, cosines = vectors.nearest(whole[[3, 70]], 7)
    right = whole[[3, 70]] @ whole.T
    order = np.argsort(-right, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(numbers, order)
    np.testing.assert_allclose(cosines, np.take_along_axis(right, order, axis=1), rtol=1e-6)
    assert numbers[0, 0] == 3
    np.testing.assert_array_equal(vectors.vector(70), whole[70])
    # More than there are.
    assert vectors.nearest(whole[:1], 1000)[0].shape == (1, 101)


def test_what_the_job_has_embedded_and_what_it_has_not_can_be_asked_for(
    command: Command, out: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    known = tmp_path / "photos" / "cats" / "00000.png"
    other = pictures(3, "others") / "cats" / "00000.png"
    grid = tmp_path / "grid.png"
    told = command("neighbours", out, known, other, "--k", 3, "--grid", grid, "--json")
    assert told.code == 0, told.err
    first, second = told.json
    # Itself is not among them, and its copy is the nearest.
    assert first["nearest"][0]["input"] == str(tmp_path / "photos" / "dogs" / "copy.png")
    assert first["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert first["nearest"][0]["label"] == "dogs"
    assert len(first["nearest"]) == len(second["nearest"]) == 3
    assert decode_image(grid.read_bytes(), 3).shape == (2 * 98 + 2, 4 * 98 + 2, 3)
    shown = command("neighbours", out, known)
    assert "copy.png" in shown.out
    assert "1.000" in shown.out


def test_rows_of_arrays_can_be_asked_for(
    command: Command, repository: Publisher, tmp_path: Path
) -> None:
    repository("features", embedder())
    rows = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "query.npy", 3 * rows[7:8])
    out = tmp_path / "vectors"
    assert command("embed", "rows.npy", "--model", "features", "--out", out).code == 0
    (found,) = command("neighbours", out, "query.npy", "--k", 1, "--json").json
    assert found["nearest"][0]["input"] == "rows.npy:7"
    assert command("neighbours", out, "rows.npy", "gone.npy").code == 2
    assert command("neighbours", out, "query.npy", "--grid", "x.png").code == 2


def test_duplicates_are_found_by_content_and_by_vector(
    command: Command, out: Path, tmp_path: Path
) -> None:
    told = command("duplicates", out, "--cosine", 0.999999, "--json").json
    pair = [str(tmp_path / "photos" / name) for name in ("cats/00000.png", "dogs/copy.png")]
    assert told == {"content": [pair], "vectors": [pair]}
    shown = command("duplicates", out, "--cosine", -1)
    assert "1 groups of 2 rows with the same bytes" in shown.out
    assert "1 groups of 101 rows with a cosine of -1.0 or more" in shown.out


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_is_drawn(command: Command, out: Path, tmp_path: Path, method: str) -> None:
    drawn = tmp_path / "map.png"
    ended = command("map", out, "--out", drawn, "--method", method, "--rows", 60)
    assert (ended.code, ended.out) == (0, f"wrote {drawn}\n")
    pixels = decode_image(drawn.read_bytes(), 3)
    # More than the frame: points of two colours.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_a_folder_without_vectors_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = command("neighbours", tmp_path / "empty", "x.png")
    assert ended.code == 2
    assert "holds no job" in ended.err


def test_the_zero_vector_stays() -> None:
    vectors = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(unit(vectors), np.array([[0.6, 0.8], [0, 0]]), rtol=1e-6)
    assert unit(vectors).dtype == np.float32
