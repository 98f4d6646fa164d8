"""The vectors of a job's folder, read shard by shard: to search, to compare, to draw."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.geometry import unit
from forwardpass.client.jobs.listing import title
from forwardpass.client.jobs.tables import vectors_of

# Vectors that are held, to be compared each with each; more of them are read again and again.
_HELD_BYTES = 2 << 30
# Pairs of near vectors that are kept: more of them tell of a threshold that is too low.
_MAX_PAIRS = 1_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Which row a vector is of.

    Attributes:
        title: What people know it by.
        path: Of its file.
        place: Its place in the file.
        label: What it is an example of.
    """

    title: str
    path: bytes
    place: int
    label: str


class JobVectors:
    """Reads the shards that are done, in order. A vector's number counts all before it.

    Args:
        folder: A job.

    Raises:
        JobError: It has no vectors yet.
    """

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._shards = sorted(folder.shards)
        counts = [folder.shards[number].vectors for number in self._shards]
        self._starts: NDArray[np.int64] = np.cumsum([0, *counts])
        if not len(self):
            raise JobError(f"{folder.path} has no vectors yet")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yields (the number of the first vector, float32 (rows, dimension) of length 1) a shard.

        The zero vector stays, which is near to none.
        """
        for start, number in zip(self._starts[:-1].tolist(), self._shards, strict=True):
            yield start, self._block(number)

    def identify(self, numbers: Sequence[int]) -> list[Identity]:
        """Returns which rows vectors are of."""
        places: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            shard = int(np.searchsorted(self._starts, number, side="right")) - 1
            places[shard].append(number)
        found: dict[int, Identity] = {}
        for shard, members in places.items():
            rows = self._columns(
                self._shards[shard], ["path", "path_text", "place", "name", "label"]
            )
            start = int(self._starts[shard])
            for number, row in zip(
                members, rows.take([member - start for member in members]).to_pylist(), strict=True
            ):
                found[number] = Identity(
                    title(row["path_text"], row["place"], row["name"]),
                    row["path"],
                    row["place"],
                    row["label"],
                )
        return [found[number] for number in numbers]

    def find(self, path: bytes) -> int | None:
        """Returns the number of the first vector of a file; None where it has none."""
        for start, number in zip(self._starts[:-1].tolist(), self._shards, strict=True):
            paths = self._columns(number, ["path"])["path"].to_pylist()
            if path in paths:
                return int(start + paths.index(path))
        return None

    def vector(self, number: int) -> NDArray[np.float32]:
        """Returns one vector, of length 1."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        vector: NDArray[np.float32] = self._block(self._shards[shard])[
            number - int(self._starts[shard])
        ]
        return vector

    def sample(self, most: int) -> tuple[list[int], NDArray[np.float32]]:
        """Returns the numbers of vectors spread evenly over all, and these, as they are."""
        numbers = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))
        parts = []
        for start, number in zip(self._starts[:-1].tolist(), self._shards, strict=True):
            here = numbers[(numbers >= start) & (numbers < start + self._count(number))]
            if len(here):
                parts.append(self._read(number)[here - start])
        return numbers.tolist(), np.concatenate(parts)

    def nearest(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns the numbers of the k vectors nearest to each query, nearest first, and cosines.

        Exact: every vector is looked at. Of equals the first comes first.

        Args:
            queries: float32 (queries, dimension), of length 1.
            k: At least 1; where there are fewer vectors, all of them are given.
        """
        numbers = np.empty((len(queries), 0), np.int64)
        cosines = np.empty((len(queries), 0), np.float32)
        for start, block in self.blocks():
            found = queries @ block.T
            cosines = np.concatenate([cosines, found], axis=1)
            here = np.arange(start, start + len(block))
            numbers = np.concatenate([numbers, np.broadcast_to(here, found.shape)], axis=1)
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            cosines = np.take_along_axis(cosines, order, axis=1)
            numbers = np.take_along_axis(numbers, order, axis=1)
        return numbers, cosines

    def same_content(self) -> list[list[Identity]]:
        """Returns the groups of rows whose bytes are the same, in order."""
        groups: dict[str, list[int]] = defaultdict(list)
        for start, number in zip(self._starts[:-1].tolist(), self._shards, strict=True):
            for place, digest in enumerate(self._columns(number, ["sha256"])["sha256"].to_pylist()):
                groups[digest].append(start + place)
        return [self.identify(members) for members in groups.values() if len(members) > 1]

    def same_vectors(self, cosine: float) -> list[list[Identity]]:
        """Returns the groups of rows whose vectors are linked by cosines of so much, or more.

        Raises:
            JobError: There are so many that the threshold tells nothing.
        """
        parents: dict[int, int] = {}
        pairs = 0
        size = 4 * len(self) * self._folder.spec.space.dimension
        held = list(self.blocks()) if size <= _HELD_BYTES else None
        for start, block in held or self.blocks():
            for other, theirs in held or self.blocks():
                if other > start:
                    break
                rows, columns = np.nonzero(block @ theirs.T >= cosine)
                left, right = rows + start, columns + other
                is_new = right < left
                pairs += int(is_new.sum())
                if pairs > _MAX_PAIRS:
                    raise JobError(
                        f"more than {_MAX_PAIRS} pairs have a cosine of {cosine} or more: give a "
                        "greater one"
                    )
                for one, two in zip(left[is_new].tolist(), right[is_new].tolist(), strict=True):
                    _join(parents, one, two)
        groups: dict[int, list[int]] = defaultdict(list)
        for member in sorted(parents):
            groups[_root(parents, member)].append(member)
        return [self.identify(members) for _, members in sorted(groups.items())]

    def _count(self, number: int) -> int:
        return self._folder.shards[number].vectors

    def _block(self, number: int) -> NDArray[np.float32]:
        return unit(self._read(number))

    def _read(self, number: int) -> NDArray[np.float32]:
        return vectors_of(self._columns(number, ["embedding"]))

    def _columns(self, number: int, names: list[str]) -> pa.Table:
        file: Path = self._folder.vectors_file(number)
        try:
            return parquet.read_table(file, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise JobError(f"{file} cannot be read: {error}") from None


def _root(parents: dict[int, int], member: int) -> int:
    while parents[member] != member:
        parents[member] = parents[parents[member]]
        member = parents[member]
    return member


def _join(parents: dict[int, int], one: int, two: int) -> None:
    """Puts two members into one group, which is called by its first."""
    for member in (one, two):
        parents.setdefault(member, member)
    first, second = sorted((_root(parents, one), _root(parents, two)))
    parents[second] = first
