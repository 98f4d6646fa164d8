"""`forwardpass embed`, from a folder to a file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from conftest import Running, StartServer
from looking_models import expected, looks
from pyarrow import parquet
from run_commands import Command
from tiny_models import EMBEDDER_WEIGHTS, Publisher, embedder

from forwardpass.client import Client
from forwardpass.client.commands.neighbours import find_neighbours
from forwardpass.client.whole_file import whole_file
from forwardpass.pixels import decode_image, encode_png

_RNG = np.random.default_rng(8)


@pytest.fixture
def served(repository: Publisher, start_server: StartServer) -> Iterator[Running]:
    repository("looks", looks())
    repository("features", embedder())
    # The server is in this process, and its log would be mixed with what the command prints.
    with structlog.testing.capture_logs():
        yield start_server()


@pytest.fixture
def command(served: Running, run_command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("FORWARDPASS_SERVER", served.address)
    return run_command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy images in two folders, and beside them what is no image."""
    root = tmp_path / "photos"
    for number in range(70):
        path = root / ("cats", "dögs [x]")[number % 2] / f"{number:02}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(_RNG.integers(0, 256, (8, 9, 3), np.uint8)))
    (root / "cats" / "notes.txt").write_text("no image")
    (root / "cats" / "folder.png").mkdir()
    return root


def test_a_folder_becomes_parquet(command: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "cats" / "broken.jpg").write_bytes(b"no image")
    (folder / "cats" / "gone.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "vectors.parquet"
    ended = command("embed", folder, "--model", "looks", "--out", out)
    assert ended.code == 7
    assert "70 ok, 1 failed" in ended.out
    assert "broken.jpg: the bytes are no image of a kind that is read" in ended.err
    assert "gone.png: a link that leads nowhere" in ended.err
    table = parquet.read_table(out)
    assert table.column_names == [
        *("path", "path_text", "place", "name", "sha256", "label", "width", "height"),
        "embedding",
    ]
    assert table["embedding"].null_count == 0
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert {row["label"] for row in rows} == {"cats", "dögs [x]"}
    for row in rows:
        np.testing.assert_allclose(
            row["embedding"], expected(Path(row["path_text"])), rtol=1e-4, atol=1e-2
        )
    (error,) = parquet.read_table(tmp_path / "vectors.errors.parquet").to_pylist()
    assert error["path_text"].endswith("broken.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "models",
        "photos",
        "vectors.errors.parquet",
        "vectors.parquet",
    ]


def test_the_file_says_whose_vectors_it_holds(
    command: Command, folder: Path, tmp_path: Path, served: Running
) -> None:
    out = tmp_path / "vectors.parquet"
    told = command("embed", folder, "--model", "looks:1", "--out", out, "--normalize", "--json")
    assert told.code == 0
    with Client(served.address) as client:
        known = client.model("looks")
    facts = {
        key.decode(): value.decode() for key, value in parquet.read_schema(out).metadata.items()
    }
    assert facts == {
        "forwardpass.model": "looks",
        "forwardpass.version": "1",
        "forwardpass.digest": known.digest,
        "forwardpass.output": "vector",
        "forwardpass.space_id": known.embedding_spaces[0].space_id,
        "forwardpass.normalized": "true",
        "forwardpass.preparation": "stretch bilinear on #ffffff",
        "forwardpass.inverted": "false",
    }
    assert told.json["space_id"] == facts["forwardpass.space_id"]
    assert (told.json["ok"], told.json["failed"], told.json["dimension"]) == (70, 0, 4)
    vectors = np.array(parquet.read_table(out)["embedding"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_files_become_an_array(command: Command, folder: Path, tmp_path: Path) -> None:
    files = sorted((folder / "cats").glob("*.PNG"))[:3]
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "vectors.npy"
    ended = command(
        "embed", files[2], tmp_path / "bad.png", *files[:2], "--model", "looks", "--out", out
    )
    assert ended.code == 7
    vectors = np.load(out)
    assert vectors.dtype == np.float32
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(
        vectors[[0, 2, 3]], [expected(files[place]) for place in (2, 0, 1)], rtol=1e-4, atol=1e-2
    )


def test_rows_of_an_array(command: Command, tmp_path: Path) -> None:
    rows = _RNG.normal(size=(300, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    for kind in ("npy", "parquet"):
        out = tmp_path / f"vectors.{kind}"
        ended = command("embed", tmp_path / "rows.npy", "--model", "features", "--out", out)
        assert ended.code == 0
        vectors = (
            np.load(out)
            if kind == "npy"
            else np.array(parquet.read_table(out)["embedding"].to_pylist())
        )
        np.testing.assert_allclose(vectors, rows @ EMBEDDER_WEIGHTS, rtol=1e-4, atol=1e-5)


def test_what_the_server_refuses_leaves_no_file(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((5, 9), np.float32))
    out = tmp_path / "vectors.parquet"
    out.write_bytes(b"an earlier run's")
    ended = command("embed", tmp_path / "rows.npy", "--model", "features", "--out", out)
    assert ended.code == 2
    assert out.read_bytes() == b"an earlier run's"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "models",
        "rows.npy",
        "vectors.parquet",
    ]


def test_neighbours_are_printed_and_drawn(command: Command, folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.PNG"))
    copy = folder / "cats" / "copy.png"
    copy.write_bytes(files[0].read_bytes())
    grid = tmp_path / "grid.png"
    ended = command(
        "embed", folder, "--model", "looks", "--neighbours", 2, "--neighbours-grid", grid
    )
    assert ended.code == 0
    assert "1.000" in ended.out
    # Eight rows of an image and its two nearest, 96 pixels each, 2 between.
    assert decode_image(grid.read_bytes(), 3).shape == (8 * 98 + 2, 3 * 98 + 2, 3)
    told = command("embed", folder, "--model", "looks", "--neighbours", 2, "--json").json
    first = told["neighbours"][0]
    assert first["input"] == str(files[0])
    assert first["nearest"][0]["input"] == str(copy)
    assert first["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-5)


def test_parquet_without_pyarrow_is_refused_before_any_work(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    out = tmp_path / "vectors.parquet"
    ended = command("embed", folder, "--model", "looks", "--out", out)
    assert (ended.code, ended.out) == (2, "")
    assert "pip install '.[embed]'" in ended.err


def test_the_nearest_are_found_by_angle() -> None:
    vectors = np.array([[1, 0], [10, 1], [0, 5], [0, 0], [-1, 0]], np.float32)
    found = find_neighbours(vectors, 2)
    assert found.queries.tolist() == [0, 1, 2, 3, 4]
    assert found.nearest[0].tolist() == [1, 2]
    assert found.nearest[2].tolist() == [1, 0]
    np.testing.assert_allclose(found.cosines[0], [10 / np.sqrt(101), 0], rtol=1e-6)
    # A zero vector is near to none, and there are no more than all the others.
    assert found.cosines[3].tolist() == [0, 0]
    assert find_neighbours(vectors, 99).nearest.shape == (5, 4)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with whole_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
