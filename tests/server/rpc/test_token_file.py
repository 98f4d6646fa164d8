"""The management tokens of a file: which files are taken, and what becomes of one that changes."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forwardpass.server.process import watched_files
from forwardpass.server.rpc.token_file import LINES, TokenFile, TokenFileError, management_token
from forwardpass.server.rpc.tokens import Token

FIRST, SECOND, THIRD = b"first-token", b"second-token", b"third-token"
FIRST_TOKEN, SECOND_TOKEN = management_token(FIRST), management_token(SECOND)


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the file looked at whenever tokens are asked for."""
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (FIRST, [FIRST_TOKEN]),
        (FIRST + b"\n", [FIRST_TOKEN]),
        (b"\n  " + FIRST + b"\t\r\n\r\n \n" + SECOND + b"\n\n", [FIRST_TOKEN, SECOND_TOKEN]),
    ],
)
def test_a_line_is_a_token(path: Path, content: bytes, tokens: list[Token]) -> None:
    path.write_bytes(content)
    assert TokenFile(path, LINES).current() == tokens


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


UNUSABLE = {
    "missing": (missing, "cannot read .*: No such file"),
    "folder": (folder, "is not a plain file"),
    "pipe": (pipe, "is not a plain file"),
    "device": (device, "is not a plain file"),
    "empty": (content(b""), "is empty"),
    "blank": (content(b" \n\t\r\n"), "is empty"),
    "three": (content(b"\n".join([FIRST, SECOND, THIRD])), "has 3 tokens; at most 2"),
    "short": (content(SECOND + b"\nsecre"), "less than 8 characters"),
    "zeros": (content(b"secr3t" + bytes(10)), "other than visible ASCII"),
    "words": (content(b"secr3t secr3t"), "other than visible ASCII"),
    "not ASCII": (content("secr3t-é-secr3t".encode()), "other than visible ASCII"),
    "long": (content(b"secr3t-" * 1_000), "more than 4096 bytes"),
    "endless": (content(FIRST + b"\n" * 4_096), "more than 4096 bytes"),
}
unusable = pytest.mark.parametrize(("spoil", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())


@unusable
def test_a_file_without_tokens_is_refused_with_its_path_and_not_what_is_in_it(
    path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(path)
    with pytest.raises(TokenFileError, match=reason) as caught:
        TokenFile(path, LINES)
    assert str(path) in str(caught.value)
    assert "secr" not in str(caught.value)
    assert "\n" not in str(caught.value)


@unusable
def test_a_file_that_becomes_unusable_leaves_the_tokens_and_is_told_once(
    path: Path, always_looks: None, spoil: Callable[[Path], object], reason: str
) -> None:
    path.write_bytes(FIRST)
    file = TokenFile(path, LINES)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    spoil(path)
    with capture_logs() as lines:
        assert [file.current() for _ in range(3)] == [[FIRST_TOKEN]] * 3
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("management_tokens_kept", "warning")
    assert str(path) in line["reason"]
    assert "secr" not in str(line)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    # And once it is mended, a fault is news again.
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    path.write_bytes(SECOND)
    assert file.current() == [SECOND_TOKEN]
    path.unlink()
    with capture_logs() as lines:
        assert [file.current() for _ in range(3)] == [[SECOND_TOKEN]] * 3
    assert len(lines) == 1


def test_a_file_that_cannot_be_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(FIRST)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, who may read everything.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(TokenFileError, match=f"cannot read {path}: Permission denied"):
        TokenFile(path, LINES)


@pytest.mark.usefixtures("always_looks")
def test_a_change_is_seen_whatever_way_it_is_made(path: Path) -> None:
    path.write_bytes(FIRST)
    file = TokenFile(path, LINES)
    with capture_logs() as lines:
        path.write_bytes(FIRST + b"\n" + SECOND)
        assert file.current() == [FIRST_TOKEN, SECOND_TOKEN]
        new = path.with_name("new")
        new.write_bytes(SECOND)
        new.replace(path)
        assert file.current() == [SECOND_TOKEN]
        assert file.current() == [SECOND_TOKEN]
    assert [(line["event"], line["tokens"]) for line in lines] == [
        ("management_tokens", 2),
        ("management_tokens", 1),
    ]
    assert "second" not in str(lines)


@pytest.mark.usefixtures("always_looks")
def test_another_file_with_the_same_time_and_size_is_seen(path: Path) -> None:
    path.write_bytes(FIRST)
    file = TokenFile(path, LINES)
    status = path.stat()
    new = path.with_name("new")
    new.write_bytes(b"other-token"[: len(FIRST)])
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)
    assert file.current() == [management_token(b"other-token")]


@pytest.mark.usefixtures("always_looks")
def test_a_mounted_secret_is_followed_from_folder_to_folder(tmp_path: Path) -> None:
    """As the kubelet changes it: a file is a link by ..data, which is replaced at once."""
    path = tmp_path / "tokens"
    path.symlink_to("..data/tokens")

    def mount(name: str, content: bytes) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_bytes(content)
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    mount("..1", FIRST)
    file = TokenFile(path, LINES)
    mount("..2", FIRST + b"\n" + SECOND)
    assert file.current() == [FIRST_TOKEN, SECOND_TOKEN]
    mount("..3", SECOND)
    assert file.current() == [SECOND_TOKEN]


def test_the_file_is_not_looked_at_for_each_call(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(FIRST)
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 600.0)
    file = TokenFile(path, LINES)
    path.write_bytes(SECOND)
    assert file.current() == [FIRST_TOKEN]
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)
    assert file.current() == [SECOND_TOKEN]


def test_a_change_is_seen_within_a_second_or_so(path: Path) -> None:
    path.write_bytes(FIRST)
    file = TokenFile(path, LINES)
    path.write_bytes(SECOND)
    for _ in range(400):
        if file.current() == [SECOND_TOKEN]:
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within four seconds")
