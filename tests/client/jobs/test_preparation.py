"""What is done to a job's pictures is a choice, and stands in what it writes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from looking_models import expected, looks
from pyarrow import parquet
from run_commands import Command
from tiny_models import Publisher

from forwardpass.client import Client, Preparation
from forwardpass.wire import Filter, Resize

from .conftest import MakePictures

CROP = Preparation(Resize.CROP, 0.9, Filter.BICUBIC, 0x000000)
OPTIONS = ("--resize", "crop", "--crop", 0.9, "--filter", "bicubic", "--background", "000000")


def vectors(out: Path) -> dict[Path, list[float]]:
    return {
        Path(os.fsdecode(row["path"])): row["embedding"]
        for row in parquet.read_table(out / "vectors").to_pylist()
    }


@pytest.mark.parametrize("is_served", [False, True])
def test_a_job_s_pictures_are_prepared_as_is_asked(
    command: Command,
    model: Path,
    pictures: MakePictures,
    tmp_path: Path,
    start_server: StartServer,
    *,
    is_served: bool,
) -> None:
    address = start_server().address
    root, out = pictures(20), tmp_path / "out"
    where = ("--model", "looks", "--server", address) if is_served else ("--model", model)
    assert command("embed", root, *where, "--out", out, *OPTIONS).code == 0
    found = vectors(out)
    assert len(found) == 20
    for path, vector in found.items():
        assert not np.allclose(vector, expected(path), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(vector, expected(path, CROP), rtol=1e-4, atol=1e-2)
    manifest = json.loads((out / "manifest.json").read_text())
    plan = manifest["settings"]["plan"]
    assert Preparation(**plan["preparation"]) == CROP
    assert Preparation(**plan["card_preparation"]) == Preparation()
    # They are those that the server gives when it is asked for the same.
    with Client(address) as client:
        some = next(iter(found))
        same = client.embed("looks", images=[some], preparation=CROP)
    assert same.space_id == manifest["space_id"]
    np.testing.assert_allclose(same.vectors[0], found[some], rtol=1e-4, atol=1e-2)
    facts = parquet.read_schema(out / "vectors" / "part-00000.parquet").metadata
    assert facts[b"forwardpass.preparation"] == b"crop 0.9 bicubic on #000000"
    assert facts[b"forwardpass.space_id"].decode() == same.space_id


def test_a_job_goes_on_only_as_it_began(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(20), tmp_path / "out"
    begin = ("embed", root, "--model", model, "--out", out)
    assert command(*begin, *OPTIONS).code == 0
    before = vectors(out)
    (out / "vectors" / "part-00000.parquet").unlink()
    for others in ((), OPTIONS[:2], (*OPTIONS, "--draft")):
        ended = command(*begin, *others)
        assert ended.code != 0
        assert "another job: its preparation is crop 0.9 bicubic on #000000, not " in ended.err
    assert command(*begin, *OPTIONS).code == 0
    assert vectors(out) == before


def test_what_the_card_says_is_kept_where_nothing_else_is_asked_for(
    command: Command, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    repository("cropping", looks(preparation=CROP))
    root = pictures(20)
    begin = ("embed", root, "--model", repository.root / "cropping", "--out")
    for out, options, preparation in (
        ("as-on-card", (), CROP),
        ("box", ("--filter", "box"), Preparation(Resize.CROP, 0.9, Filter.BOX, 0x000000)),
        ("whole", ("--crop", 1), Preparation(Resize.CROP, 1.0, Filter.BICUBIC, 0x000000)),
    ):
        assert command(*begin, out, *options).code == 0
        for path, vector in vectors(tmp_path / out).items():
            np.testing.assert_allclose(vector, expected(path, preparation), rtol=1e-4, atol=1e-2)


def test_a_query_is_prepared_as_the_job_s_pictures_were(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(40), tmp_path / "out"
    assert command("embed", root, "--model", model, "--out", out, *OPTIONS).code == 0
    known = root / "cats" / "00002.png"
    copy = tmp_path / "copy.png"
    copy.write_bytes(known.read_bytes())
    told = command("neighbours", out, copy, "--model", model, "--k", 1, "--json")
    assert told.code == 0, told.err
    (nearest,) = told.json[0]["nearest"]
    assert nearest["input"] == str(known)
    assert nearest["cosine"] == pytest.approx(1, abs=1e-6)


def test_a_file_of_vectors_says_how_they_were_made(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    out = tmp_path / "vectors.parquet"
    told = command("embed", pictures(4), "--model", model, "--out", out, *OPTIONS, "--json")
    facts = parquet.read_schema(out).metadata
    assert facts[b"forwardpass.preparation"] == b"crop 0.9 bicubic on #000000"
    assert facts[b"forwardpass.space_id"].decode() == told.json["space_id"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resize", "zoom"), "'zoom' is unknown; there are stretch, crop"),
        (("--background", "white"), "expected six hexadecimal digits"),
        (("--resize", "crop", "--crop", 2), "crop is 2.0, and a share is in (0, 1]"),
        (("--crop", 0.5), "crop is 0.5, which needs resize crop"),
    ],
)
def test_what_there_is_not_is_refused(
    command: Command,
    model: Path,
    pictures: MakePictures,
    options: tuple[object, ...],
    message: str,
) -> None:
    out = Path("out")
    ended = command("embed", pictures(2), "--model", model, "--out", out, *options)
    assert ended.code != 0
    assert message in " ".join(ended.err.replace("│", " ").split())
    assert not out.exists() or not list(out.glob("vectors/*"))


def test_only_pictures_are_prepared(
    command: Command, repository: Publisher, tmp_path: Path
) -> None:
    from tiny_models import embedder

    repository("features", embedder())
    np.save(tmp_path / "rows.npy", np.zeros((3, 4), np.float32))
    model = repository.root / "features"
    ended = command("embed", "rows.npy", "--model", model, "--out", "out", "--draft")
    assert ended.code != 0
    assert "resizing is for pictures, and these are arrays" in ended.err
