"""What is opened of a repository that somebody else fills, and what is not."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from forwardpass.server.loading.files import FileError, RepositoryFiles, fingerprint

SECRET = b"a secret"
MINE = b"of the repository"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    (root / "mine").write_bytes(MINE)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    return root


def outside(root: Path) -> Path:
    return root.parent / "outside"


def pipe(root: Path) -> Path:
    os.mkfifo(root / "file")
    return root / "file"


def folder(root: Path) -> Path:
    (root / "file").mkdir()
    return root / "file"


def link_to(target: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / "file").symlink_to(target)
        return root / "file"

    return make


def behind_a_linked_folder(root: Path) -> Path:
    (root / "d").symlink_to(outside(root))
    return root / "d" / "secret"


def token_of_the_process(root: Path) -> Path:
    (root / "d").symlink_to("/proc/self")
    return root / "d" / "environ"


def with_another_name(root: Path) -> Path:
    os.link(outside(root) / "secret", root / "file")
    return root / "file"


def two_links_away(root: Path) -> Path:
    (root / "first").symlink_to("second")
    (root / "second").symlink_to("../outside/secret")
    return root / "first"


def longer_than_its_limit(root: Path) -> Path:
    with (root / "file").open("wb") as file:
        file.truncate(1 << 40)
    return root / "file"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pipe, "file is not a plain file"),
        (folder, "file is not a plain file"),
        (link_to("../outside/secret"), "file is a link that leads out of the repository"),
        (link_to("/etc/passwd"), "file is a link that leads out of the repository"),
        (link_to("/dev/zero"), "file is not a plain file"),
        (behind_a_linked_folder, "secret is a link that leads out of the repository"),
        (two_links_away, "first is a link that leads out of the repository"),
        (token_of_the_process, "environ is a link that leads out of the repository"),
        (with_another_name, "file has other hard links"),
        (longer_than_its_limit, "file has 1099511627776 bytes; at most 100 are read"),
    ],
)
def test_t125_what_is_no_plain_file_of_the_repository_is_not_read(
    root: Path, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(root)
    with pytest.raises(FileError, match=reason):
        RepositoryFiles(root).read(path, 100)


def test_a_loop_of_links_is_an_error_of_its_own(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        RepositoryFiles(root).read(root / "loop", 100)


def test_t125_links_are_followed_where_they_end_in_the_repository(root: Path) -> None:
    files = RepositoryFiles(root)
    (root / "..2026_01").mkdir()
    (root / "..2026_01" / "config.pbtxt").write_bytes(MINE)
    (root / "..data").symlink_to("..2026_01")
    (root / "config.pbtxt").symlink_to("..data/config.pbtxt")
    (root / "absolute").symlink_to(root / "mine")
    assert files.read(root / "config.pbtxt", 100) == MINE
    assert files.read(root / "absolute", 100) == MINE


def test_t125_links_are_followed_into_folders_that_the_operator_names(root: Path) -> None:
    (root / "file").symlink_to("../outside/secret")
    assert RepositoryFiles(root, [outside(root)]).read(root / "file", 100) == SECRET
    # A folder whose name only begins like one of them is none of them.
    (root.parent / "out").mkdir()
    with pytest.raises(FileError):
        RepositoryFiles(root, [root.parent / "out"]).read(root / "file", 100)


def test_a_repository_that_is_a_link_is_where_that_leads_now(root: Path, tmp_path: Path) -> None:
    current, other = tmp_path / "current", tmp_path / "other"
    current.symlink_to("models")
    files = RepositoryFiles(current)
    assert files.read(current / "mine", 100) == MINE
    other.mkdir()
    (other / "mine").write_bytes(b"of the other")
    (tmp_path / "next").symlink_to("other")
    (tmp_path / "next").replace(current)
    assert files.read(current / "mine", 100) == b"of the other"
    with pytest.raises(FileError, match="leads out"):
        files.read(root / "mine", 100)


def test_t125_a_link_that_is_swapped_while_it_is_followed_never_leads_out(root: Path) -> None:
    files, done = RepositoryFiles(root), threading.Event()
    (root / "inside").symlink_to("mine")

    def swap() -> None:
        while not done.is_set():
            for target in ("../outside/secret", "mine"):
                (root / "next").symlink_to(target)
                (root / "next").replace(root / "inside")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(files.read(root / "inside", 100))
            except FileError as error:
                seen.add(str(error).encode())
    finally:
        done.set()
        thread.join()
    assert seen <= {MINE, b"inside is a link that leads out of the repository"}


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(MINE)
    path.with_name("new").replace(path)


def swapped(path: Path) -> None:
    path.with_name("other").write_bytes(MINE)
    path.unlink()
    path.symlink_to("other")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [replaced, swapped, touched])
def test_a_stamp_changes_with_the_file(root: Path, change: Callable[[Path], None]) -> None:
    files = RepositoryFiles(root)
    before, whole = files.stamp(root / "mine"), fingerprint(root)
    assert files.stamp(root / "mine") == before
    assert fingerprint(root) == whole
    change(root / "mine")
    assert files.stamp(root / "mine") != before
    assert fingerprint(root) != whole


def test_a_folder_is_listed_without_what_kubernetes_mounts_beside(root: Path) -> None:
    (root / "..2026_01" / "d").mkdir(parents=True)
    (root / "..2026_01" / "file").write_bytes(MINE)
    (root / "..data").symlink_to("..2026_01")
    (root / "file").symlink_to("..data/file")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "deep").write_bytes(MINE)
    (root / "a" / "loop").symlink_to("..")
    assert RepositoryFiles(root).names(root) == ["a/b/deep", "a/loop", "file", "mine"]


def test_a_folder_of_too_many_files_is_refused(root: Path) -> None:
    for number in range(10_000):
        (root / str(number)).touch()
    with pytest.raises(FileError, match="more than 10000 files"):
        RepositoryFiles(root).names(root)
