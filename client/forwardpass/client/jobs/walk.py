"""Which files there are under a folder. Paths are bytes: a name may be no text.

Only regular files are taken. What a link leads to is taken once, after everything that is there
without one, so that the result does not depend on the order of a folder's entries, and a link to a
folder above ends.
"""

import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Files that tell of others, or are a system's own: counted, but no input that is left out.
SIDECARS = frozenset(
    {
        b".cfg", b".csv", b".db", b".htm", b".html", b".ini", b".json", b".jsonl", b".log", b".md",
        b".toml", b".tsv", b".txt", b".xml", b".yaml", b".yml",
    }
)  # fmt: skip
# Larger ones are left out before any of it is read.
MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file.

    Attributes:
        path: As it is opened.
        size: Bytes.
        mtime_ns: When it was last changed, in nanoseconds since 1970.
    """

    path: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An input that no row stands for.

    Attributes:
        path: Of a file or a folder.
        reason: Why.
    """

    path: bytes
    reason: str


@dataclass(slots=True)
class Found:
    """What a walk has come to.

    Attributes:
        files: The files that are wanted.
        left_out: Those that could be neither read nor told to be none.
        skipped: How many files have another suffix, by suffix; empty for none.
        links: How many links lead to what is listed already, or were not to be followed.
    """

    files: list[FoundFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    skipped: Counter[bytes] = field(default_factory=Counter)
    links: int = 0

    @property
    def refused(self) -> int:
        """How many files of the skipped suffixes may well have been meant."""
        return count_refused(self.skipped)


def count_refused(skipped: Mapping[bytes, int]) -> int:
    """Returns how many files of the suffixes skipped may well have been meant."""
    return sum(count for suffix, count in skipped.items() if suffix not in SIDECARS)


def suffix_of(path: bytes) -> bytes:
    """Returns the suffix in lower case, with its dot; empty where there is none."""
    name = path.rpartition(b"/")[2]
    stem, dot, suffix = name.rpartition(b".")
    return (dot + suffix).lower() if stem else b""


class Walk:
    """Finds files; `found` has what it has found so far.

    Args:
        is_wanted: Says of a suffix, as `suffix_of` gives it, whether such files are.
        follow: Whether to follow links.
        max_bytes: Of a suffix, the largest file to take.
    """

    def __init__(
        self,
        is_wanted: Callable[[bytes], bool],
        *,
        follow: bool,
        max_bytes: Callable[[bytes], int] = lambda _suffix: MAX_FILE_BYTES,
    ) -> None:
        self.found = Found()
        self._is_wanted = is_wanted
        self._follow = follow
        self._max_bytes = max_bytes
        self._folders: set[tuple[int, int]] = set()
        # Of the files, side by side: a set of pairs would take more room than the paths.
        self._devices, self._inodes = array("Q"), array("Q")

    def add(self, path: bytes) -> None:
        """Takes a file or a folder that was named, whatever its suffix; follows it if a link."""
        try:
            status = os.stat(path)  # noqa: PTH116 - of bytes
        except OSError as error:
            self._leave_out(path, error.strerror or str(error))
            return
        if stat.S_ISDIR(status.st_mode):
            self._enter(path, status)
        else:
            self._take(path, status)

    def _enter(self, root: bytes, status: os.stat_result) -> None:
        self._folders.add((status.st_dev, status.st_ino))
        links = self._descend([root])
        if not self._follow:
            self.found.links += len(links)
            return
        seen = set(zip(self._devices, self._inodes, strict=True)) if links else set()
        while links:
            waiting, links = sorted(links), []
            for path in waiting:
                links += self._follow_link(path, seen)

    def _follow_link(self, path: bytes, seen: set[tuple[int, int]]) -> list[bytes]:
        """Takes what a link leads to, and returns the links found in it."""
        try:
            status = os.stat(path)  # noqa: PTH116 - of bytes
        except OSError as error:
            self._leave_out(path, f"a link that leads nowhere: {error.strerror}")
            return []
        key = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            if key in self._folders:
                self.found.links += 1
                return []
            self._folders.add(key)
            before = len(self._inodes)
            links = self._descend([path])
            seen.update(zip(self._devices[before:], self._inodes[before:], strict=True))
            return links
        suffix = suffix_of(path)
        if not self._is_wanted(suffix):
            self.found.skipped[suffix] += 1
        elif key in seen:
            self.found.links += 1
        else:
            seen.add(key)
            self._take(path, status)
        return []

    def _descend(self, folders: list[bytes]) -> list[bytes]:
        """Takes everything below some folders but links, which are returned."""
        links: list[bytes] = []
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            except OSError as error:
                self._leave_out(folder, f"the folder cannot be read: {error.strerror}")
                continue
            for entry in entries:
                try:
                    if entry.is_symlink():
                        links.append(entry.path)
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        self._folders.add((status.st_dev, status.st_ino))
                        folders.append(entry.path)
                        continue
                    suffix = suffix_of(entry.path)
                    if not self._is_wanted(suffix):
                        self.found.skipped[suffix] += 1
                        continue
                    self._take(entry.path, entry.stat(follow_symlinks=False))
                except OSError as error:
                    self._leave_out(entry.path, error.strerror or str(error))
        return links

    def _take(self, path: bytes, status: os.stat_result) -> None:
        most = self._max_bytes(suffix_of(path))
        if not stat.S_ISREG(status.st_mode):
            self._leave_out(path, f"{kind_of(status.st_mode)}, no regular file")
        elif status.st_size > most:
            self._leave_out(path, f"the file has {status.st_size} bytes; at most {most} are read")
        else:
            self._devices.append(status.st_dev)
            self._inodes.append(status.st_ino)
            self.found.files.append(FoundFile(path, status.st_size, status.st_mtime_ns))

    def _leave_out(self, path: bytes, reason: str) -> None:
        self.found.left_out.append(LeftOut(path, reason))


def kind_of(mode: int) -> str:
    """Returns what a file that is no regular one is called."""
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")
