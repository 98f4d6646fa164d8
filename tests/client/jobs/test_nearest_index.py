"""An index finds nearly all that a look at every vector finds, and is made once."""

from pathlib import Path

import numpy as np
import pytest
from run_commands import Command

from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.vectors import JobVectors

from .conftest import MakePictures

pytestmark = pytest.mark.heavy


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("forwardpass.client.jobs.plan.MAX_SHARD_ROWS", 512)
    return command


def test_an_index_finds_nearly_all(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    from forwardpass.client.jobs.nearest_index import NearestIndex

    root, out = pictures(2000), tmp_path / "out"
    assert command("embed", root, "--model", model, "--out", out).code == 0
    folder = JobFolder.open(out)
    vectors = JobVectors(folder)
    queries = np.concatenate([block for _, block in vectors.blocks()])[::20]
    right, cosines = vectors.nearest(queries, 10)
    found, near = NearestIndex(folder, vectors).nearest(queries, 10)
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(right, found, strict=True)]
    assert np.mean(shares) > 0.95
    np.testing.assert_allclose(near[:, 0], cosines[:, 0], atol=1e-5)
    # More than there are.
    assert NearestIndex(folder, vectors).nearest(queries[:1], 5000)[0].shape == (1, 2000)


def test_an_index_is_kept_until_the_vectors_are_others(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(50), tmp_path / "out"
    begin = ("embed", root, "--model", model, "--out", out)
    asked = ("neighbours", out, root / "cats" / "00000.png", "--k", 3, "--json")
    assert command(*begin).code == 0
    exact = command(*asked).json
    assert (
        command(*asked, "--approximate").json[0]["nearest"][0]["input"]
        == (exact[0]["nearest"][0]["input"])
    )
    (index,) = out.glob("index-*")
    before = index.stat().st_mtime_ns
    assert command(*asked, "--approximate").code == 0
    assert index.stat().st_mtime_ns == before
    # A shard is done again, of a picture that has become another.
    (root / "cats" / "00010.png").write_bytes((root / "cats" / "00000.png").read_bytes())
    (out / "vectors" / "part-00000.parquet").unlink()
    assert command(*begin).code == 0
    nearest = command(*asked, "--approximate").json[0]["nearest"][0]
    assert nearest["input"] == str(root / "cats" / "00010.png")
    (other,) = out.glob("index-*")
    assert other != index
    assert command("embed", "--check", out).code == 0
    other.write_bytes(b"no index")
    ended = command(*asked, "--approximate")
    assert ended.code != 0
    assert "delete it, and it is made anew" in ended.err
