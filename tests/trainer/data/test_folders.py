"""Which files of a folder, or of a CSV file, are taken for pictures, and what is said of others."""

import os
from pathlib import Path

import pytest

from forwardpass.trainer.data.folders import (
    Listing,
    Why,
    list_labelled,
    list_pictures,
)
from forwardpass.trainer.errors import DataError


def write(folder: Path, *names: str) -> None:
    """Writes files; nothing here is decoded."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")


def taken(folder: Path, listing: Listing) -> dict[str, str]:
    """Returns the label of each file that is listed."""
    paths = {os.fsdecode(row.path): row.label for row in listing.rows}
    return {os.path.relpath(path, folder): label for path, label in paths.items()}


def left(folder: Path, listing: Listing) -> dict[str, str]:
    """Returns why each file is left out that is."""
    return {os.path.relpath(each.file, folder): each.why for each in listing.left_out.items}


def test_a_sub_folder_is_a_class_however_deep_its_pictures_lie(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "cat/2.JPEG", "cat/old/very/3.png", "dog/1.webp", "dog/without")

    listing = list_labelled(tmp_path)

    assert taken(tmp_path, listing) == {
        "cat/1.jpg": "cat",
        "cat/2.JPEG": "cat",
        "cat/old/very/3.png": "cat",
        "dog/1.webp": "dog",
        "dog/without": "dog",
    }
    assert not listing.left_out
    assert listing.labels() == ("cat", "dog")


def test_what_is_no_picture_is_left_out_and_listed(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/.DS_Store", "cat/._1.jpg", "cat/notes.txt")
    write(tmp_path, "cat/film.mov", ".git/config", "cat/.thumbs/1.jpg", "readme.md", "beside.png")
    write(tmp_path, "empty/nothing.txt")
    (tmp_path / "none").mkdir()

    listing = list_labelled(tmp_path)

    assert taken(tmp_path, listing) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    assert left(tmp_path, listing) == {
        "cat/.DS_Store": Why.HIDDEN,
        "cat/._1.jpg": Why.HIDDEN,
        "cat/.thumbs": Why.HIDDEN,
        ".git": Why.HIDDEN,
        "cat/notes.txt": Why.NO_PICTURE,
        "cat/film.mov": Why.NO_PICTURE,
        "empty/nothing.txt": Why.NO_PICTURE,
        "empty": Why.NO_PICTURE,
        "none": Why.NO_PICTURE,
        "readme.md": Why.NO_PICTURE,
        "beside.png": Why.NO_LABEL,
    }


def test_links_are_followed_to_files_and_as_classes_and_nothing_is_waited_for(
    tmp_path: Path,
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    write(data, "cat/1.jpg")
    write(other, "dogs/1.jpg", "more/2.jpg")
    (data / "dog").symlink_to(other / "dogs")
    (data / "cat" / "2.jpg").symlink_to(other / "more" / "2.jpg")
    (data / "cat" / "more").symlink_to(other / "more")
    (data / "cat" / "up").symlink_to(data)
    (data / "loop").symlink_to(data)
    (data / "cat" / "broken.jpg").symlink_to("nowhere")
    (data / "cat" / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(data / "cat" / "pipe.jpg")
    (data / "cat" / "null.jpg").symlink_to("/dev/null")

    listing = list_labelled(data)

    assert taken(data, listing) == {"cat/1.jpg": "cat", "cat/2.jpg": "cat", "dog/1.jpg": "dog"}
    assert left(data, listing) == {
        "cat/more": Why.NOT_FOLLOWED,
        "cat/up": Why.NOT_FOLLOWED,
        "loop": Why.NOT_FOLLOWED,
        "cat/broken.jpg": Why.UNREADABLE,
        "cat/self.jpg": Why.UNREADABLE,
        "cat/pipe.jpg": Why.UNREADABLE,
        "cat/null.jpg": Why.UNREADABLE,
    }
    reasons = {each.file.rpartition("/")[2]: each.detail for each in listing.left_out.items}
    assert reasons["pipe.jpg"] == "a FIFO, no regular file"
    assert reasons["null.jpg"] == "a device, no regular file"
    assert reasons["broken.jpg"] == "a link that leads nowhere: No such file or directory"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "pets is empty; give a folder with a sub-folder of pictures for each class"),
        (["1.jpg", "2.jpg"], "has pictures and no sub-folders, .* such as .*pets/cat/1.jpg"),
        (
            ["cat/notes.txt"],
            r"no picture that can be read \(left out: 2 files \(no picture\), such as .*cat",
        ),
        (
            ["all/cat/1.jpg", "all/dog/1.jpg"],
            "has one sub-folder, all, with the folders 'cat', 'dog'; .* give .*pets/all",
        ),
        (
            ["test/cat/1.jpg", "test/dog/1.jpg", "train/cat/1.jpg", "train/dog/1.jpg"],
            "'test', 'train' in .* all have the folders 'cat', 'dog'; .* another as test=",
        ),
        (["cat/1.jpg", "do\tg/1.jpg"], r"the label 'do\\tg' in .* cannot be written on a card"),
        (["cat/1.jpg", "d\udcffg/1.jpg"], r"the label 'd\\udcffg' in .* bytes that are no UTF-8"),
        (["cat/1.jpg", " /1.jpg"], "the label ' ' in .* cannot be written on a card"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise_teaches(
    names: list[str], message: str, tmp_path: Path
) -> None:
    pets = tmp_path / "pets"
    pets.mkdir()
    write(pets, *names)

    with pytest.raises(DataError, match=message):
        list_labelled(pets)


def test_labels_may_be_in_any_script(tmp_path: Path) -> None:
    write(tmp_path, "猫/1.jpg", "chien méchant/1.jpg", "$5 <b>/1.jpg")

    assert list_labelled(tmp_path).labels() == ("$5 <b>", "chien méchant", "猫")


@pytest.mark.parametrize(
    ("encoding", "separator", "end"), [("utf-8", ",", "\n"), ("latin-1", ";", "\r\n")]
)
def test_a_csv_file_says_what_pictures_show(
    encoding: str, separator: str, end: str, tmp_path: Path
) -> None:
    write(tmp_path, "all/1.jpg", "all/2.jpg", "all/3.jpg", "4.png")
    rows = [
        ("path", "label", "note"),
        ("all/1.jpg", "café", ""),
        (str(tmp_path / "all/2.jpg"), " dog ", "its path is whole"),
        ("4.png", "dog", ""),
        ("all/3.jpg", "", "not known yet"),
        ("", "dog", ""),
        ("all/missing.jpg", "dog", ""),
        ("table.csv", "dog", "no picture"),
    ]
    table = tmp_path / "table.csv"
    table.write_bytes("".join(separator.join(row) + end for row in rows).encode(encoding))

    listing = list_labelled(table)

    assert taken(tmp_path, listing) == {"all/1.jpg": "café", "all/2.jpg": "dog", "4.png": "dog"}
    missing, picture = tmp_path / "all/missing.jpg", tmp_path / "table.csv"
    assert listing.left_out.notes()[:3] == [
        "left out: 1 row without a label, line 5",
        "left out: 1 row without a path, line 6",
        f"left out: 1 file (unreadable), such as {missing}: No such file or directory",
    ]
    assert [item.file for item in listing.left_out.items[2:]] == [str(missing), str(picture)]


def test_a_csv_file_without_headings_teaches(tmp_path: Path) -> None:
    table = tmp_path / "pets.csv"
    table.write_text("1.jpg,cat\n2.jpg,dog\n")

    with pytest.raises(DataError, match=r"headings '1.jpg', 'cat'; .* path,label: what follows"):
        list_labelled(table)


def test_pictures_without_labels_are_those_of_all_folders(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "a/2.jpg", "a/b/3.jpg", "a/.hidden.jpg")

    listing = list_pictures(tmp_path)

    assert sorted(taken(tmp_path, listing)) == ["1.jpg", "a/2.jpg", "a/b/3.jpg"]
    assert left(tmp_path, listing) == {"a/.hidden.jpg": Why.HIDDEN}
    with pytest.raises(DataError, match=r"1\.jpg is no folder; give a folder of pictures"):
        list_pictures(tmp_path / "1.jpg")


def test_the_table_of_what_is_left_out_can_be_read_again(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", 'cat/a "b",\nc.txt', "cat/\udcff.txt")

    listing = list_labelled(tmp_path)
    table = tmp_path / "left-out.csv"
    table.write_bytes(listing.left_out.table())

    from forwardpass.trainer.data import csv_file

    read = csv_file.read(table)
    assert list(read.columns) == ["what", "column", "file", "line", "why", "detail"]
    assert read.column("file") == [
        str(tmp_path / "cat" / 'a "b",\nc.txt'),
        f"{tmp_path}/cat/\ufffd.txt",
    ]
    assert set(read.column("why")) == {"no picture"}
