"""Opens what lies in a model repository, whoever has put it there, and nothing else.

A repository is written by others than the server: by a sync, an upload, a trainer of another team.
So a name in it may be a pipe, a device, or a link to a file that callers must not see.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

# The most files of a version that are looked at.
_MAX_FILES = 10_000
_CHUNK = 1 << 20
# Kubernetes mounts a volume as links to files of such a folder, and swaps it: it is no part of it.
_MOUNTED = ".."


class FileError(ValueError):
    """A file that is not read; the message says why."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a configuration names, as it was when the configuration was read.

    Attributes:
        path: Where it lies.
        stamp: Another one after each change of the file.
    """

    path: Path
    stamp: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """The files of a repository.

    Links are followed where they end in the repository, or in a folder that the operator names.

    Attributes:
        root: The repository's folder; where it is itself a link, it counts where that leads now.
        follow_links: Other folders where links may end.
    """

    root: Path
    follow_links: Sequence[Path] = ()

    def read(self, path: Path, most: int) -> bytes:
        """Returns what is in a file.

        Args:
            path: A file of the repository.
            most: The most bytes that it may have.

        Raises:
            FileError: It is no plain file of the repository, or has more bytes.
            OSError: It is not there, or cannot be read.
        """
        with self._opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > most:
                raise FileError(f"{path.name} has {size} bytes; at most {most} are read")
            with open(descriptor, "rb", closefd=False) as file:  # it has no path
                data = file.read(size + 1)
            if len(data) != size:
                raise FileError(f"{path.name} changed while it was being read")
            return data

    def digest(self, path: Path, size: int) -> bytes:
        """Returns the SHA-256 of a file of that many bytes.

        Raises:
            FileError: It is no plain file of the repository, or has more or fewer bytes.
            OSError: It is not there, or cannot be read.
        """
        digest, rest = sha256(), size
        with self._opened(path) as descriptor:
            while chunk := os.read(descriptor, _CHUNK):
                digest.update(chunk)
                rest -= len(chunk)
                if rest < 0:
                    break
        if rest:
            raise FileError(f"{path.name} changed while it was being read")
        return digest.digest()

    def stamp(self, path: Path) -> tuple[int, ...]:
        """Returns what changes with each change of a file, or of a link on the way to it.

        Raises:
            FileError: It is no plain file of the repository.
            OSError: It is not there, or cannot be looked at.
        """
        with self._placed(path) as place:
            return _stamp(self._check_file(path, place))

    def size(self, path: Path) -> int:
        """Returns how many bytes a file has.

        Raises:
            FileError: It is no plain file of the repository.
            OSError: It is not there, or cannot be looked at.
        """
        with self._placed(path) as place:
            return self._check_file(path, place).st_size

    def has_folder(self, path: Path) -> bool:
        """Whether there is a folder of that name, which is one of the repository's.

        Raises:
            OSError: It cannot be looked at.
        """
        try:
            with self._placed(path) as place:
                return stat.S_ISDIR(os.fstat(place).st_mode) and self._encloses(place)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def names(self, folder: Path) -> list[str]:
        """Returns the names of everything in a folder and below that is no folder itself.

        Raises:
            FileError: There are too many.
            OSError: A folder cannot be read.
        """
        names = [path.relative_to(folder).as_posix() for path in _walk(folder)]
        if len(names) > _MAX_FILES:
            raise FileError(f"it has more than {_MAX_FILES} files")
        return sorted(names)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        """Gives a descriptor of the very file that was checked."""
        with self._placed(path) as place:
            self._check_file(path, place)
            try:
                descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK)
            except OSError as error:
                error.filename = os.fspath(path)
                raise
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _placed(self, path: Path) -> Iterator[int]:
        """Gives a descriptor that holds on to what is there, but does not open it."""
        place = os.open(path, os.O_PATH)
        try:
            yield place
        finally:
            os.close(place)

    def _check_file(self, path: Path, place: int) -> os.stat_result:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path.name} is not a plain file")
        if not self._encloses(place):
            raise FileError(f"{path.name} is a link that leads out of the repository")
        if status.st_nlink != 1:
            raise FileError(f"{path.name} has other hard links, through which it could change")
        return status

    def _encloses(self, place: int) -> bool:
        """Whether what a descriptor holds lies in the repository, whatever way led to it."""
        where = Path(f"/proc/self/fd/{place}").readlink()
        tops = (self.root, *self.follow_links)
        return any(where.is_relative_to(os.path.realpath(top)) for top in tops)


def fingerprint(folder: Path) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns name and stamp of every file: equal while nothing changes.

    Empty where the folder is gone or cannot be read.
    """
    entries = []
    try:
        for path in _walk(folder):
            # A link that leads nowhere is there all the same.
            status = path.stat() if path.exists() else path.lstat()
            entries.append((path.relative_to(folder).as_posix(), _stamp(status)))
    except OSError:
        return ()
    return tuple(sorted(entries))


def _walk(folder: Path) -> Iterator[Path]:
    """Yields what is no folder, in a folder and below, up to one more than the most."""
    return islice(_walk_all(folder), _MAX_FILES + 1)


def _walk_all(folder: Path) -> Iterator[Path]:
    folders = [folder]
    while folders:
        for path in folders.pop().iterdir():
            if path.name.startswith(_MOUNTED):
                continue
            # A link to a folder is not walked: it may lead back.
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
            else:
                yield path


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
