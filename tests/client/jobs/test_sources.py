"""What can be named as a source, and the rows that it becomes."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind, Listing, Row, compare
from forwardpass.client.jobs.reading import RowError, RowReader
from forwardpass.client.jobs.sources import Sources, Takes, list_rows, read_file_list, refused

from .conftest import MakePictures

ALL = Takes(pictures=True, texts=True, arrays=True)


def listed(*given: object, takes: Takes = ALL, **options: object) -> Listing:
    sources = Sources([os.fsencode(str(path)) for path in given], **options)  # type: ignore[arg-type]
    return list_rows(sources, takes, "m")


def values(listing: Listing, column: str | None = None) -> list[object]:
    reader = RowReader(listing.kind, column)
    return [reader.read(row).value for row in listing]


def test_a_folder_is_a_row_a_picture_ordered_by_path(pictures: MakePictures) -> None:
    root = pictures(5)
    (root / "notes.txt").write_text("no picture")
    listing = listed(root)
    assert listing.kind is Kind.PICTURES
    paths = [row.path for row in listing]
    assert paths == sorted(paths)
    assert len(listing) == 5
    assert [row.label for row in listing] == ["cats"] * 3 + ["dogs"] * 2
    assert listing.skipped == {".txt": 1}
    assert refused(listing) == 0
    assert values(listing)[0] == Path(os.fsdecode(paths[0])).read_bytes()


def test_files_come_once_whatever_names_them(pictures: MakePictures) -> None:
    root = pictures(4)
    again = [root, root / "cats", f"{root}/*/0000?.png", root / "cats" / "00000.png"]
    assert len(listed(*again)) == 4
    assert len(listed(f"{root}/**/*.png")) == 4


def test_a_list_of_files_may_name_what_cannot_be_read(pictures: MakePictures) -> None:
    root = os.fsencode(pictures(2))
    lines = [root + b"/cats/00000.png", root + b"/gone.png", root + b"/x.heic"]
    for separator in (b"\n", b"\0"):
        paths = read_file_list(separator.join(lines) + separator)
        assert paths == lines
    listing = listed(listed=lines)
    assert [row.path for row in listing] == lines[:1]
    assert [left.reason for left in listing.left_out] == [
        "No such file or directory",
        "its suffix is none of those that are read",
    ]
    # A name with a line end in it can stand in a list whose names end with NULs.
    assert read_file_list(b"a\nb\0c\0") == [b"a\nb", b"c"]


def test_a_tar_has_a_row_a_picture_and_labels_beside_them(
    pictures: MakePictures, tmp_path: Path
) -> None:
    root = pictures(3)
    files = sorted(root.rglob("*.png"))
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number, file in enumerate(files):
            archive.add(file, f"set/{number}.png")
            label = f"class {number}".encode()
            info = tarfile.TarInfo(f"set/{number}.cls")
            info.size = len(label)
            archive.addfile(info, io.BytesIO(label))
        link = tarfile.TarInfo("evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    listing = listed(path)
    assert [row.name for row in listing] == ["set/0.png", "set/1.png", "set/2.png"]
    assert [row.label for row in listing] == ["class 0", "class 1", "class 2"]
    assert values(listing) == [file.read_bytes() for file in files]


def test_a_tar_that_is_cut_is_left_out_or_its_rows_are_errors(
    pictures: MakePictures, tmp_path: Path
) -> None:
    root = pictures(2)
    path = root / "shard.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(root / "cats" / "00000.png", "1.png")
        archive.add(root / "dogs" / "00001.png", "2.png")
    listing = listed(path)
    os.truncate(path, listing[1].offset + 10)
    reader = RowReader(listing.kind, None)
    reader.read(listing[0])
    with pytest.raises(RowError, match="was it cut"):
        reader.read(listing[1])
    path.write_bytes(b"no tar" * 200)
    (left,) = listed(root).left_out
    assert left.path == os.fsencode(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_is_left_out_of_which_a_header_takes_all_memory(
    pictures: MakePictures, kind: bytes
) -> None:
    root = pictures(2)
    path = root / "shard.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(root / "cats" / "00000.png", "1.png")
        long = tarfile.TarInfo("long")
        long.type, long.size = kind, 2 << 20
        archive.addfile(long, io.BytesIO(b"x" * long.size))
        archive.add(root / "dogs" / "00001.png", "2.png")
    listing = listed(root)
    assert len(listing) == 2
    (left,) = listing.left_out
    assert left.path == os.fsencode(path)
    assert "a header has 2097152 bytes; at most 1048576 are read" in left.reason


def test_a_text_file_is_a_row_a_line_that_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("  one \n\n zwei\u2028weiter\r\n\xff".encode() + b"\n\xff\xfe\n")
    listing = listed(path)
    assert listing.kind is Kind.TEXTS
    assert [row.place for row in listing] == [0, 2, 3, 4]
    reader = RowReader(listing.kind, None)
    assert [reader.read(listing[row]).value for row in range(3)] == [
        "one",
        "zwei\u2028weiter",
        "\xff",
    ]
    with pytest.raises(RowError, match="not UTF-8 at its byte 0"):
        reader.read(listing[3])


def test_a_line_without_an_end_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    with path.open("wb") as file:
        file.write(b"one\n")
        # Sparse: 256 MiB of NULs, and not a line end among them.
        file.truncate(256 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    tracemalloc.start()
    try:
        listing = listed(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert [row.place for row in listing] == [0, 1, 2]
    reader = RowReader(listing.kind, None)
    assert reader.read(listing[2]).value == "last"
    with pytest.raises(RowError, match="at most 1048576 are read"):
        reader.read(listing[1])


def test_an_archive_that_unpacks_to_too_much_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", rows=np.zeros((1000, 1000), np.float32))
    monkeypatch.setattr("forwardpass.client.jobs.reading._MAX_ARCHIVE_BYTES", 1 << 20)
    with pytest.raises(JobError, match="4000128 bytes unpacked; at most 1048576 are read"):
        listed(tmp_path / "zeros.npz")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(JobError, match="it holds 2 arrays, not one"):
        listed(tmp_path / "two.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_a_row_each(tmp_path: Path, order: str) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "a.npy", np.asarray(rows, order=order))  # type: ignore[call-overload]
    np.savez(tmp_path / "b.npz", rows=rows)
    for name in ("a.npy", "b.npz"):
        listing = listed(tmp_path / name)
        assert listing.kind is Kind.ARRAYS
        np.testing.assert_array_equal(np.stack(values(listing)), rows)  # type: ignore[arg-type]


def test_an_array_that_is_cut_while_it_is_read_is_an_error_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((1000, 512), np.float32))
    listing = listed(path)
    reader = RowReader(listing.kind, None)
    reader.read(listing[0])
    # A mapped file would end the process here.
    os.truncate(path, 4096)
    with pytest.raises(RowError, match="was it cut"):
        reader.read(listing[999])


def test_arrays_of_objects_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(JobError, match=r"no arrays .*1 left out"):
        listed(tmp_path / "a.npy")


def test_columns_of_parquet_are_pictures_texts_or_arrays(
    pictures: MakePictures, tmp_path: Path
) -> None:
    file = pictures(1) / "cats" / "00000.png"
    path = tmp_path / "table.parquet"
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": "x"}, None, {"bytes": b"", "path": ""}],
            "raw": [file.read_bytes()] * 3,
            "text": ["a", "b", "c"],
            "vector": [[1.0, 2.0]] * 3,
            "label": [7, 8, 9],
        }
    )
    parquet.write_table(table, path, row_group_size=2)
    for column, kind in (
        ("image", Kind.PICTURES),
        ("raw", Kind.PICTURES),
        ("text", Kind.TEXTS),
        ("vector", Kind.ARRAYS),
    ):
        listing = listed(path, column=column)
        assert listing.kind is kind
        assert [row.label for row in listing] == ["7", "8", "9"]
        reader = RowReader(kind, column)
        assert reader.read(listing[0]).sha256
    with pytest.raises(RowError, match="holds nothing here"):
        RowReader(Kind.PICTURES, "image").read(listed(path, column="image")[1])
    assert values(listed(path, column="text"), "text") == ["a", "b", "c"]
    with pytest.raises(JobError, match=r"has no column 'x'; it has image, raw"):
        listed(path, column="x")
    with pytest.raises(JobError, match="name the column with --column"):
        listed(path)


def test_a_table_is_left_out_of_which_a_part_takes_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in (("small", 10), ("large", 1000)):
        table = pa.table(
            {"text": [f"{number:09}" for number in range(rows)], "other": ["x"] * rows}
        )
        parquet.write_table(table, tmp_path / f"{name}.parquet", use_dictionary=False)
    monkeypatch.setattr("forwardpass.client.jobs.file_rows.MAX_GROUP_BYTES", 8000)
    listing = listed(tmp_path / "large.parquet", tmp_path / "small.parquet", column="text")
    assert len(listing) == 10
    (left,) = listing.left_out
    assert left.path.endswith(b"large.parquet")
    assert "its row group 0 has" in left.reason
    assert "at most 8000 are read: write it with smaller row groups" in left.reason
    # What is not read may be as long as it likes.
    assert len(listed(tmp_path / "large.parquet", column="other")) == 1000


@pytest.mark.parametrize("column", ["text", "image"])
def test_what_a_table_has_a_thousand_times_is_held_once(tmp_path: Path, column: str) -> None:
    texts = ["x" * 900_000] * 300
    images = [{"bytes": text.encode(), "path": ""} for text in texts]
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"text": texts, "image": images}), path)
    assert path.stat().st_size < 2 << 20
    listing = listed(path, column=column)
    before = pa.total_allocated_bytes()
    reader = RowReader(listing.kind, column)
    assert len(reader.read(listing[299]).value) == 900_000
    assert pa.total_allocated_bytes() - before < 10 << 20


@pytest.mark.parametrize(
    ("names", "takes", "message"),
    [
        (["gone"], ALL, "gone does not exist"),
        (["*.png"], ALL, "nothing matches"),
        (["empty"], ALL, "no pictures in .*empty"),
        (["a.pdf"], ALL, r"a\.pdf: expected a folder, or for pictures \.bmp"),
        (["a.txt", "a.npy"], ALL, "arrays and texts do not go together"),
        (["a.txt"], Takes(pictures=True, texts=False, arrays=True), "m takes no texts"),
        (
            ["a.png"],
            Takes(pictures=False, texts=False, arrays=True),
            r"m takes no images: give the rows of its input as a \.npy",
        ),
        (["empty"], Takes(pictures=False, texts=False, arrays=False), "m takes no one array"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, names: list[str], takes: Takes, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.pdf", "a.txt", "a.npy"):
        (tmp_path / name).write_bytes(b"x")
    if "a.png" in names:
        (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(JobError, match=message):
        listed(*(tmp_path / name for name in names), takes=takes)


def test_a_file_that_becomes_a_fifo_is_an_error_and_nobody_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    listing = listed(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RowError, match="a FIFO, no regular file"):
        RowReader(Kind.PICTURES, None).read(listing[0])


def test_what_has_changed_since_is_told(pictures: MakePictures) -> None:
    root = pictures(4)
    before = listed(root)
    (root / "cats" / "00000.png").unlink()
    (root / "dogs" / "00001.png").write_bytes(b"other")
    (root / "new.png").write_bytes(b"x")
    changes = compare(before, listed(root))
    assert [path.rpartition(b"/")[2] for path in changes.new] == [b"new.png"]
    assert [path.rpartition(b"/")[2] for path in changes.changed] == [b"00001.png"]
    assert [path.rpartition(b"/")[2] for path in changes.vanished] == [b"00000.png"]
    assert not compare(before, before)


def test_lists_that_differ_in_anything_have_other_digests() -> None:
    row = Row(b"a", 0, "", 0, 1, 2, "x")
    others = [
        Row(b"b", 0, "", 0, 1, 2, "x"),
        Row(b"a", 1, "", 0, 1, 2, "x"),
        Row(b"a", 0, "n", 0, 1, 2, "x"),
        Row(b"a", 0, "", 1, 1, 2, "x"),
        Row(b"a", 0, "", 0, 2, 2, "x"),
        Row(b"a", 0, "", 0, 1, 3, "x"),
        Row(b"a", 0, "", 0, 1, 2, "y"),
    ]
    digests = {Listing.of(Kind.PICTURES, [each]).digest() for each in (row, *others)}
    assert len(digests) == 8
    assert Listing.of(Kind.TEXTS, [row]).digest() not in digests
