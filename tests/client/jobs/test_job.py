"""`forwardpass embed SOURCE --out DIR`: a job that survives anything and leaves nothing out.

The cases that need no server run the model in this process; see `test_served_job` for others.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from looking_models import expected, looks
from pyarrow import parquet
from run_commands import Command, Ended
from tiny_models import Publisher, embedder

from forwardpass.client.jobs import folder as job_folder
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.tables import vector_schema

from .conftest import MakePictures

# Small, so that a job of few pictures has many shards.
SHARD_ROWS = 32


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwardpass.client.jobs.plan.MAX_SHARD_ROWS", SHARD_ROWS)


def table(out: Path) -> pa.Table:
    """Returns all vectors of a job, sorted."""
    return parquet.read_table(out / "vectors").sort_by(
        [("path", "ascending"), ("place", "ascending")]
    )


def embed(command: Command, model: Path, *arguments: object) -> Ended:
    return command("embed", *arguments, "--model", model)


@pytest.mark.usefixtures("small_shards")
def test_a_folder_becomes_shards_with_a_manifest(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(70), tmp_path / "out"
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 0
    assert "70 vectors, 0 errors in" in ended.out
    files = sorted(path.name for path in (out / "vectors").iterdir())
    assert files == [f"part-{number:05}.parquet" for number in range(3)]
    found = table(out)
    assert found.schema.remove_metadata() == vector_schema(4)
    assert found.num_rows == 70
    for row in found.to_pylist():
        path = Path(os.fsdecode(row["path"]))
        assert row["path_text"] == str(path)
        assert row["label"] == path.parent.name
        assert (row["width"], row["height"]) == (9, 8)
        np.testing.assert_allclose(row["embedding"], expected(path), rtol=1e-4, atol=1e-2)
    column = parquet.read_metadata(out / "vectors" / files[0]).row_group(0).column(8)
    assert (column.path_in_schema, column.compression) == ("embedding.list.element", "ZSTD")
    # Of vectors it would be as long as they are.
    assert not column.has_dictionary_page
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["rows"], manifest["vectors"], manifest["complete"]) == (70, 70, True)
    assert [shard["vectors"] for shard in manifest["shards"]] == [32, 32, 6]
    assert manifest["settings"]["plan"]["batch_rows"] == 16
    checked = command("embed", "--check", out)
    assert (checked.code, checked.out) == (0, f"{out} is complete: 70 rows, 70 vectors, 0 errors\n")


def test_the_same_command_does_nothing_again(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(20), tmp_path / "out"
    assert embed(command, model, root, "--out", out).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 0
    assert "goes on: 20 of 20 rows are done" in ended.err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == before


@pytest.mark.usefixtures("small_shards")
def test_what_is_missing_is_done_and_nothing_else(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out, whole = pictures(100), tmp_path / "out", tmp_path / "whole"
    assert embed(command, model, root, "--out", whole).code == 0
    assert embed(command, model, root, "--out", out).code == 0
    (out / "vectors" / "part-00001.parquet").unlink()
    # What a kill leaves behind: a file half written, and a manifest that knows too much.
    (out / "vectors" / ".part-00001.parquet.1.part").write_bytes(b"half")
    kept = (out / "vectors" / "part-00002.parquet").stat().st_mtime_ns
    assert embed(command, model, root, "--out", out).code == 0
    assert (out / "vectors" / "part-00002.parquet").stat().st_mtime_ns == kept
    assert not list(out.rglob("*.part"))
    assert table(out).equals(table(whole))
    for name in ("part-00000", "part-00001"):
        file = Path("vectors") / f"{name}.parquet"
        assert (out / file).read_bytes() == (whole / file).read_bytes()


def test_what_cannot_be_embedded_is_in_a_table_of_its_own(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(40), tmp_path / "out"
    (root / "cats" / "broken.jpg").write_bytes(b"no image")
    (root / "cats" / "empty.png").write_bytes(b"")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / "x.heic").write_bytes(b"x")
    (root / "notes.txt").write_bytes(b"x")
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 7
    assert "40 vectors, 2 errors" in ended.out
    assert f"left out: 1, such as {root / 'gone.png'}: a link that leads nowhere" in ended.err
    assert "passed over for their suffix: 1 .heic, 1 .txt" in ended.err
    assert table(out)["embedding"].null_count == 0
    errors = parquet.read_table(out / "errors").to_pylist()
    assert [Path(row["path_text"]).name for row in errors] == ["broken.jpg", "empty.png"]
    assert all("no image of a kind that is read" in row["error"] for row in errors)
    left_out = parquet.read_table(out / "left-out.parquet").to_pylist()
    assert [row["path_text"] for row in left_out] == [str(root / "gone.png")]
    checked = command("embed", "--check", out)
    assert checked.code == 7
    assert "is complete: 42 rows, 40 vectors, 2 errors" in checked.out


@pytest.mark.usefixtures("small_shards")
def test_only_errors_are_tried_again(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out, whole = pictures(100), tmp_path / "out", tmp_path / "whole"
    assert embed(command, model, root, "--out", whole).code == 0
    broken = root / "cats" / "00040.png"
    good = broken.read_bytes()
    stamp = broken.stat()
    broken.write_bytes(b"broken")
    assert embed(command, model, root, "--out", out).code == 7
    broken.write_bytes(good)
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "vectors").iterdir()}
    ended = embed(command, model, root, "--out", out, "--retry-errors")
    assert ended.code == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "vectors").iterdir()}
    assert [name for name in after if after[name] != before[name]] == ["part-00000.parquet"]
    assert table(out).equals(table(whole))
    assert not list((out / "errors").iterdir())
    assert command("embed", "--check", out).code == 0


def test_a_job_says_what_has_changed_and_keeps_to_its_list(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(20), tmp_path / "out"
    assert embed(command, model, root, "--out", out).code == 0
    (out / "vectors" / "part-00000.parquet").unlink()
    (root / "cats" / "00000.png").unlink()
    (root / "cats" / "00002.png").write_bytes((root / "cats" / "00004.png").read_bytes())
    (root / "new.png").write_bytes((root / "cats" / "00004.png").read_bytes())
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 7
    assert f"{root / 'new.png'} is new, and not part of this job" in ended.err
    assert f"{root / 'cats' / '00002.png'} is changed" in ended.err
    assert f"{root / 'cats' / '00000.png'} is gone" in ended.err
    rows = {Path(row["path_text"]).name: row for row in table(out).to_pylist()}
    assert len(rows) == 19
    assert rows["00002.png"]["sha256"] == rows["00004.png"]["sha256"]
    (error,) = parquet.read_table(out / "errors").to_pylist()
    assert error["error"] == "No such file or directory"


def test_a_folder_holds_one_job(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(3), tmp_path / "out"
    assert embed(command, model, root, "--out", out).code == 0
    for option in ("normalize", "invert"):
        ended = embed(command, model, root, "--out", out, f"--{option}")
        assert ended.code == 2
        assert f"the folder holds another job: its {option} is False, not True" in ended.err
    assert embed(command, model, root, "--out", out, "--part", "0/1").code == 0


def test_another_models_vectors_are_never_mixed_in(
    command: Command, model: Path, repository: Publisher, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(3), tmp_path / "out"
    assert embed(command, model, root, "--out", out).code == 0
    (out / "vectors" / "part-00000.parquet").unlink()
    repository("looks", looks(mixes_rows=True), version=2)
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 2
    assert "the job holds vectors of space" in ended.err
    assert embed(command, Path(f"{model}:1"), root, "--out", out).code == 0


def test_a_folder_is_worked_in_by_one(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(3), tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 on there")
        lock.flush()
        ended = embed(command, model, root, "--out", out)
    assert ended.code == 2
    assert f"another process works in {out}: process 7 on there" in ended.err
    assert embed(command, model, root, "--out", out).code == 0


@pytest.mark.usefixtures("small_shards")
def test_parts_make_the_whole(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out, whole = pictures(100), tmp_path / "out", tmp_path / "whole"
    (root / "cats" / "broken.png").write_bytes(b"x")
    assert embed(command, model, root, "--out", whole).code == 7
    for index in (2, 0):
        assert embed(command, model, root, "--out", out, "--part", f"{index}/3").code in (0, 7)
    ended = command("embed", "--merge", out)
    assert (ended.code, ended.err) == (2, "error: parts are missing: 1/3\n")
    assert embed(command, model, root, "--out", out, "--part", "1/3").code in (0, 7)
    assert command("embed", "--merge", out).code == 7
    assert table(out).equals(table(whole))
    assert command("embed", "--check", out).code == 7
    # A part whose list is another is no part.
    (root / "new.png").write_bytes((root / "cats" / "00004.png").read_bytes())
    other = tmp_path / "other"
    embed(command, model, root, "--out", other, "--part", "1/3")
    parts = [out / "part-0-of-3", other / "part-1-of-3", out / "part-2-of-3"]
    ended = command("embed", "--merge", tmp_path / "wrong", *parts)
    assert ended.code == 2
    assert "their list differ" in ended.err


def damage(out: Path, how: str) -> None:
    file = out / "vectors" / "part-00001.parquet"
    match how:
        case "missing":
            file.unlink()
        case "cut":
            os.truncate(file, file.stat().st_size - 20)
        case "flipped":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        case "exchanged":
            file.write_bytes((out / "vectors" / "part-00000.parquet").read_bytes())
        case "listing":
            listing = out / "listing.parquet"
            rows = parquet.read_table(listing)
            parquet.write_table(rows.slice(1), listing)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "exchanged", "listing"])
def test_a_check_finds_what_is_wrong(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out"
    assert embed(command, model, pictures(70), "--out", out).code == 0
    damage(out, how)
    ended = command("embed", "--check", out)
    assert ended.code == (2 if how == "listing" else 1), ended
    assert ("not the list" if how == "listing" else "part-00001.parquet") in ended.err


def test_a_check_reads_the_errors_as_well(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    root, out = pictures(20), tmp_path / "out"
    (root / "cats" / "broken.png").write_bytes(b"x")
    assert embed(command, model, root, "--out", out).code == 7
    errors = out / "errors" / "part-00000.parquet"
    table = parquet.read_table(errors)
    other = table.set_column(6, table.schema.field(6), pa.array(["another reason"]))
    parquet.write_table(other, errors)
    ended = command("embed", "--check", out)
    assert ended.code == 1
    assert "errors/part-00000.parquet is not as it was written" in ended.err


def test_a_manifest_of_other_files_is_no_proof(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    """A row that is missing is found, though file and digest agree."""
    out = tmp_path / "out"
    assert embed(command, model, pictures(20), "--out", out).code == 0
    folder = JobFolder.open(out)
    file = folder.vectors_file(0)
    parquet.write_table(parquet.read_table(file).slice(1), file)
    shard = folder._record(0, 19, 0)
    folder.add(shard)
    folder.write_manifest()
    ended = command("embed", "--check", out)
    assert ended.code == 1
    assert "19 rows that are not the 20 of the list" in ended.err


def test_vectors_do_not_depend_on_who_else_is_embedded(
    command: Command,
    repository: Publisher,
    pictures: MakePictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a model that mixes the rows of a run, batches are always the same."""
    repository("mixing", looks(mixes_rows=True))
    root = pictures(100)
    model = repository.root / "mixing"
    tables = []
    for name, shard_rows in (("a", 1024), ("b", 32), ("c", 50)):
        monkeypatch.setattr("forwardpass.client.jobs.plan.MAX_SHARD_ROWS", shard_rows)
        assert embed(command, model, root, "--out", tmp_path / name).code == 0
        tables.append(table(tmp_path / name))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert embed(command, model, root, "--out", tmp_path / "d.parquet").code == 0
    assert parquet.read_table(tmp_path / "d.parquet").equals(tables[0])


def test_arrays_and_texts_are_jobs_as_well(
    command: Command, repository: Publisher, tmp_path: Path
) -> None:
    repository("features", embedder())
    rows = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "out"
    assert command("embed", tmp_path / "rows.npy", "--model", "features", "--out", out).code == 0
    found = table(out)
    assert found["place"].to_pylist() == list(range(300))
    np.save(tmp_path / "other.npy", rows.astype(np.float64)[:, :3])
    ended = command(
        "embed", tmp_path / "rows.npy", tmp_path / "other.npy", "--model", "features", "--out",
        tmp_path / "mixed",
    )  # fmt: skip
    # By path "other" comes first, and the model takes no row of it.
    assert ended.code == 2
    assert not (tmp_path / "mixed" / "vectors" / "part-00000.parquet").exists()


def test_a_full_disk_is_one_sentence(
    command: Command,
    model: Path,
    pictures: MakePictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, out = pictures(20), tmp_path / "out"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if "vectors" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ended = embed(command, model, root, "--out", out)
    assert ended.code == 2
    assert ended.err.startswith(f"error: there is no room left for {out}: No space left")
    assert not list(out.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", real)
    assert embed(command, model, root, "--out", out).code == 0


def start(*arguments: object, shard_rows: int = 16) -> subprocess.Popen[bytes]:
    code = (
        f"import forwardpass.client.jobs.plan as plan; plan.MAX_SHARD_ROWS = {shard_rows};"
        "from forwardpass.client.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "embed", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "FORWARDPASS_SERVER"},
    )


def done(out: Path) -> int:
    """Returns how many shards there are."""
    folder = out / "vectors"
    return (
        sum(1 for path in folder.iterdir() if path.suffix == ".parquet") if folder.exists() else 0
    )


def test_a_job_that_is_killed_again_and_again_ends_as_one_that_was_not(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path
) -> None:
    """T97: SIGKILL as soon as some shards more are there; byte-equal in the end."""
    root, out, whole = pictures(1600), tmp_path / "out", tmp_path / "whole"
    assert embed(command, model, root, "--out", whole).code == 0
    rng = np.random.default_rng(3)
    kills = 0
    while True:
        begun = done(out)
        process = start(root, "--model", model, "--out", out)
        wanted = begun + int(rng.integers(10, 40))
        while process.poll() is None and done(out) < wanted:
            time.sleep(0.001)
        if process.poll() is not None:
            _, err = process.communicate()
            break
        process.kill()
        process.communicate()
        kills += 1
    assert process.returncode == 0, err.decode()
    assert kills >= 3
    assert table(out).equals(table(whole))
    assert command("embed", "--check", out).code == 0
    assert job_folder.JobFolder.open(out).spec.rows == 1600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_job_after_the_shards_in_hand(
    command: Command, model: Path, pictures: MakePictures, tmp_path: Path, number: signal.Signals
) -> None:
    root, out = pictures(3200), tmp_path / "out"
    process = start(root, "--model", model, "--out", out)
    while process.poll() is None and not done(out):
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err.decode()
    assert b"the same command goes on" in err
    assert not list(out.rglob("*.part"))
    shards = done(out)
    assert 0 < shards < 200
    manifest = json.loads((out / "manifest.json").read_text())
    assert (len(manifest["shards"]), manifest["complete"]) == (shards, False)
    checked = command("embed", "--check", out)
    assert checked.code == 1
