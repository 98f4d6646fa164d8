"""What a job embeds: a row for each picture, text or row of an array, in order."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.jobs.walk import LeftOut


class Kind(StrEnum):
    """What a row becomes."""

    PICTURES = "pictures"
    TEXTS = "texts"
    ARRAYS = "arrays"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to embed.

    Attributes:
        path: Of the file that it lies in.
        place: Its place in the file, from 0.
        name: What it is called in the file, such as a member of a tar; empty where nothing.
        offset: The first of its bytes in the file; 0 where only a library can tell.
        size: How many bytes it has there.
        mtime_ns: When the file was last changed, in nanoseconds since 1970.
        label: What it is an example of; empty where unknown.
    """

    path: bytes
    place: int
    name: str
    offset: int
    size: int
    mtime_ns: int
    label: str

    @property
    def title(self) -> str:
        """What people read of it."""
        return title(as_text(self.path), self.place, self.name)


@dataclass(slots=True)
class Listing:
    """Rows, side by side in columns: a million of them are to be held.

    Attributes:
        kind: What they become.
        paths: Of the files that they lie in, each once.
        files: int32: for each row its path's place in `paths`.
        places: int64, as in `Row`.
        names: As in `Row`.
        offsets: int64, as in `Row`.
        sizes: int64, as in `Row`.
        mtimes: int64: for each path, as in `Row`.
        labels: As in `Row`.
        left_out: The inputs that no row stands for.
        skipped: How many files were passed over for their suffix, by suffix.
        links: How many links led to what is listed, or were not followed.
    """

    kind: Kind
    paths: list[bytes]
    files: NDArray[np.int32]
    places: NDArray[np.int64]
    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    labels: list[str]
    left_out: list[LeftOut] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    links: int = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Row:
        file = self.files[row]
        return Row(
            self.paths[file],
            int(self.places[row]),
            self.names[row],
            int(self.offsets[row]),
            int(self.sizes[row]),
            int(self.mtimes[file]),
            self.labels[row],
        )

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    @classmethod
    def of(cls, kind: Kind, rows: Iterable[Row]) -> "Listing":
        """Returns a listing of rows in their order; those of one file lie together."""
        paths: list[bytes] = []
        mtimes: list[int] = []
        columns: tuple[list[int], ...] = ([], [], [], [])
        names: list[str] = []
        labels: list[str] = []
        files, places, offsets, sizes = columns
        # The same label is the same object, however many rows have it.
        known: dict[str, str] = {}
        for row in rows:
            if not paths or paths[-1] != row.path:
                paths.append(row.path)
                mtimes.append(row.mtime_ns)
            files.append(len(paths) - 1)
            places.append(row.place)
            offsets.append(row.offset)
            sizes.append(row.size)
            names.append(row.name)
            labels.append(known.setdefault(row.label, row.label))
        return cls(
            kind,
            paths,
            np.array(files, np.int32),
            np.array(places, np.int64),
            names,
            np.array(offsets, np.int64),
            np.array(sizes, np.int64),
            np.array(mtimes, np.int64),
            labels,
        )

    def digest(self) -> str:
        """Returns what tells this list from another: SHA-256, in hexadecimal."""
        digest = hashlib.sha256(self.kind.encode())
        for path in self.paths:
            digest.update(len(path).to_bytes(8, "little") + path)
        for numbers in (self.files, self.places, self.offsets, self.sizes, self.mtimes):
            digest.update(numbers.astype("<i8").tobytes())
        for text in (*self.names, *self.labels):
            data = text.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Changes:
    """How what lies there differs from a list.

    Attributes:
        new: Files that the list does not have.
        changed: Files of another size, or changed at another time.
        vanished: Files that are there no more.
    """

    new: Sequence[bytes]
    changed: Sequence[bytes]
    vanished: Sequence[bytes]

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.vanished)


def compare(old: Listing, new: Listing) -> Changes:
    """Returns what has changed between two lists of the same inputs."""
    before = _files(old)
    after = _files(new)
    return Changes(
        [path for path in after if path not in before],
        [path for path, stamp in after.items() if before.get(path, stamp) != stamp],
        [path for path in before if path not in after],
    )


def _files(listing: Listing) -> dict[bytes, tuple[int, int]]:
    """Returns for each file when it was changed, and the bytes of its rows."""
    totals = np.bincount(listing.files, listing.sizes, len(listing.paths)).astype(np.int64)
    stamps = zip(listing.mtimes.tolist(), totals.tolist(), strict=True)
    return dict(zip(listing.paths, stamps, strict=True))


def title(path: str, place: int, name: str) -> str:
    """Returns what people read of a row."""
    inside = name or (str(place) if place else "")
    return f"{path}{':' if inside else ''}{inside}"


def as_text(path: bytes) -> str:
    """Returns a path as text that can be written down: a path may be any bytes."""
    return path.decode("utf-8", "replace")


def folder_label(path: bytes) -> str:
    """Returns the name of the folder that a file lies in."""
    return as_text(os.path.basename(os.path.dirname(os.path.abspath(path))))  # noqa: PTH100, PTH119, PTH120
