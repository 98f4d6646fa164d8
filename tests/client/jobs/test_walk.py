"""What a walk finds, and what it leaves out."""

import os
import socket
from pathlib import Path

import pytest

from forwardpass.client.jobs.walk import Found, Walk, suffix_of


def walk(*roots: Path, follow: bool = True, **options: int) -> Found:
    walk = Walk({b".png", b".jpg"}.__contains__, follow=follow)
    for root in roots:
        walk.add(os.fsencode(root))
    return walk.found


def names(found: Found, root: Path) -> list[str]:
    return [os.path.relpath(os.fsdecode(file.path), root) for file in found.files]


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        (b"a/b.PNG", b".png"),
        (b"a.b/c", b""),
        (b".hidden", b""),
        (b"a/.png", b""),
        (b"x.tar.gz", b".gz"),
        (b"\xff.jpg", b".jpg"),
    ],
)
def test_a_suffix_is_that_of_the_name(path: bytes, suffix: bytes) -> None:
    assert suffix_of(path) == suffix


def test_everything_below_a_folder_is_found_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/2.png", "a/1.JPG", "0.png", "a/notes.txt", "a/x.heic", "a/none"):
        (tmp_path / name).write_bytes(b"x" * 3)
    found = walk(tmp_path)
    assert sorted(names(found, tmp_path)) == ["0.png", "a/1.JPG", "a/b/2.png"]
    assert all(file.size == 3 and file.mtime_ns for file in found.files)
    assert found.skipped == {b".txt": 1, b".heic": 1, b"": 1}
    assert found.refused == 2
    assert found.left_out == []


def test_names_that_differ_in_a_byte_that_is_no_text_stay_two(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"\xff.png", b"\xfe.png"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(b"x")
    found = walk(tmp_path)
    assert sorted(file.path for file in found.files) == [root + b"/\xfe.png", root + b"/\xff.png"]


def test_what_is_no_regular_file_is_left_out_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s.png"))
    with listening:
        (tmp_path / "null.png").symlink_to("/dev/zero")
        found = walk(tmp_path)
    assert found.files == []
    assert {left.path.rpartition(b"/")[2]: left.reason for left in found.left_out} == {
        b"fifo.png": "a FIFO, no regular file",
        b"s.png": "a socket, no regular file",
        b"null.png": "a device, no regular file",
    }


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "1.png").write_bytes(b"x")
    closed = tmp_path / "closed"
    closed.mkdir()
    real = os.scandir

    # Rights do not hold root back.
    def scandir(path: bytes) -> object:
        if path == os.fsencode(closed):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = walk(tmp_path)
    assert names(found, tmp_path) == ["open/1.png"]
    (left,) = found.left_out
    assert left.path == os.fsencode(closed)
    assert left.reason == "the folder cannot be read: Permission denied"


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"x")
    (tmp_path / "z" / "deep").mkdir(parents=True)
    # To the folder above, to a file that is listed, to nothing, and to what only links reach.
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "0.png").symlink_to(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "9.png").write_bytes(b"x")
    (outside / "back").symlink_to(tmp_path)
    (tmp_path / "z" / "deep" / "out").symlink_to(outside)
    (tmp_path / "z" / "again").symlink_to(outside)
    found = walk(tmp_path)
    assert sorted(names(found, tmp_path)) == ["a/1.png", "z/again/9.png"]
    assert {left.path.rpartition(b"/")[2] for left in found.left_out} == {b"gone.png", b"self.png"}
    # Up, to the listed file, back, and the second way outside.
    assert found.links == 4


def test_links_are_left_where_they_are_not_to_be_followed(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    (tmp_path / "2.png").symlink_to(tmp_path / "1.png")
    (tmp_path / "up").symlink_to(tmp_path)
    found = walk(tmp_path, follow=False)
    assert names(found, tmp_path) == ["1.png"]
    assert found.links == 2
    assert found.left_out == []


def test_a_file_that_is_too_large_is_left_out_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    found = walk(tmp_path)
    assert found.files == []
    assert "at most 268435456 are read" in found.left_out[0].reason


def test_a_folder_deeper_than_a_path_may_be_is_left_out(tmp_path: Path) -> None:
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(25):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
    finally:
        os.chdir(before)
    (tmp_path / "1.png").write_bytes(b"x")
    found = walk(tmp_path)
    assert names(found, tmp_path) == ["1.png"]
    assert [left.reason for left in found.left_out] == ["File name too long"]
