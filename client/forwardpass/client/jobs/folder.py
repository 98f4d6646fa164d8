"""A job's folder.

    job.json           what is done, and how: written once
    listing.parquet    the rows, in order
    left-out.parquet   the inputs that no row stands for, with reasons
    vectors/           part-00000.parquet …: the rows' vectors, each file whole or not there
    errors/            part-00000.parquet …: the rows that have none, with reasons
    manifest.json      which of these files there are, with their digests and counts

A shard is done when its file in `vectors` is there, which is written last.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pyarrow import parquet

from forwardpass.artefact import file_digest
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Listing
from forwardpass.client.jobs.pipeline import Embedded
from forwardpass.client.jobs.spec import FORMAT, Spec
from forwardpass.client.jobs.tables import (
    error_table,
    listing_tables,
    read_listing,
    vector_table,
    write_table,
)
from forwardpass.client.whole_file import whole_file

# Of the manifest between two shards; it is written again at the end.
_MANIFEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is done.

    Attributes:
        number: Which.
        vectors: How many rows have one.
        errors: How many have none.
        sha256: The digest of its file in `vectors`, in hexadecimal.
        errors_sha256: Of that in `errors`; empty where there is none.
    """

    number: int
    vectors: int
    errors: int
    sha256: str
    errors_sha256: str


class JobFolder:
    """A folder that holds a job. Made by `create` or `open`.

    Attributes:
        path: Where it is.
        spec: What the job does.
        listing: Its rows.
        shards: What is done, by number.
    """

    def __init__(self, path: Path, spec: Spec, listing: Listing) -> None:
        self.path = path
        self.spec = spec
        self.listing = listing
        self.shards: dict[int, Shard] = {}
        self._written = 0.0

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a job was begun there."""
        return (path / "job.json").is_file()

    @classmethod
    def create(cls, path: Path, spec: Spec, listing: Listing) -> Self:
        """Begins a job.

        Raises:
            OSError: The folder cannot be written.
        """
        for folder in (path, path / "vectors", path / "errors"):
            folder.mkdir(parents=True, exist_ok=True)
        rows, left_out = listing_tables(listing)
        for name, table in (("listing", rows), ("left-out", left_out)):
            with whole_file(path / f"{name}.parquet") as file:
                write_table(table, file)
        # Last: with it the job is there.
        _write_json(path / "job.json", spec.to_json())
        return cls(path, spec, listing)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads a job, and what of it is done.

        Raises:
            JobError: There is none, or its files are damaged.
        """
        try:
            spec = Spec.from_json(json.loads((path / "job.json").read_text(encoding="utf-8")))
            listing = read_listing(path / "listing.parquet", path / "left-out.parquet")
        except FileNotFoundError as error:
            raise JobError(f"{path} holds no job: {error.filename} is not there") from None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise JobError(f"the job in {path} cannot be read: {error}") from None
        if listing.digest() != spec.listing:
            raise JobError(f"{path / 'listing.parquet'} is not the list that the job began with")
        folder = cls(path, spec, replace(listing, skipped=dict(spec.skipped), links=spec.links))
        folder._find_shards()
        return folder

    @property
    def vectors(self) -> int:
        """How many rows have a vector."""
        return sum(shard.vectors for shard in self.shards.values())

    @property
    def errors(self) -> int:
        """How many rows have an error instead."""
        return sum(shard.errors for shard in self.shards.values())

    def vectors_file(self, shard: int) -> Path:
        """Returns where a shard's vectors are."""
        return self.path / "vectors" / f"part-{shard:05}.parquet"

    def errors_file(self, shard: int) -> Path:
        """Returns where a shard's errors are, if it has any."""
        return self.path / "errors" / f"part-{shard:05}.parquet"

    def write_shard(self, number: int, embedded: Embedded) -> Shard:
        """Writes the rows of a shard; its file is there whole or not at all.

        Raises:
            OSError: There is no room, or no right.
        """
        rows = [self.listing[row] for row in embedded.rows]
        facts = self._facts(number)
        failed = sum(error is not None for error in embedded.errors)
        errors_file = self.errors_file(number)
        if failed:
            with whole_file(errors_file) as file:
                write_table(error_table(rows, embedded, facts), file)
        else:
            errors_file.unlink(missing_ok=True)
        table = vector_table(rows, embedded, self.spec.space.dimension, facts)
        with whole_file(self.vectors_file(number)) as file:
            write_table(table, file)
        return self._record(number, len(rows) - failed, failed)

    def add(self, shard: Shard) -> None:
        """Notes that a shard is done; written down within seconds."""
        self.shards[shard.number] = shard
        if time.monotonic() - self._written >= _MANIFEST_SECONDS:
            self.write_manifest()

    def forget(self, shards: Iterable[int]) -> None:
        """Notes that shards are to be done again, before their files change."""
        for number in shards:
            self.shards.pop(number, None)
        self.write_manifest()

    def write_manifest(self) -> None:
        """Writes down what is done."""
        shards = [self.shards[number] for number in sorted(self.shards)]
        spec = self.spec
        _write_json(
            self.path / "manifest.json",
            {
                "format": FORMAT,
                "job": spec.id,
                "space_id": spec.space.space_id,
                "settings": spec.to_json(),
                "rows": spec.part_rows,
                "vectors": self.vectors,
                "errors": self.errors,
                "left_out": len(self.listing.left_out),
                "complete": len(shards) == len(spec.shards),
                "shards": [asdict(shard) for shard in shards],
            },
        )
        self._written = time.monotonic()

    def _find_shards(self) -> None:
        """Takes what the manifest says of the files that are there, and looks at the others."""
        known = _read_shards(self.path / "manifest.json", self.spec.id)
        for number in self.spec.shards:
            if not self.vectors_file(number).exists():
                continue
            shard = known.get(number)
            found = shard or self._look_at(number)
            if found is not None:
                self.shards[number] = found

    def _look_at(self, number: int) -> Shard | None:
        """Returns what a file tells that no manifest knows of; None where it is not this job's."""
        try:
            metadata = parquet.read_metadata(self.vectors_file(number))
            failed = 0
            if self.errors_file(number).exists():
                failed = parquet.read_metadata(self.errors_file(number)).num_rows
        except (OSError, pa.ArrowException):
            return None
        facts = metadata.metadata or {}
        is_ours = facts.get(b"forwardpass.job") == self.spec.id.encode()
        if not is_ours or metadata.num_rows + failed != len(self.spec.rows_of(number)):
            return None
        return self._record(number, metadata.num_rows, failed)

    def _record(self, number: int, vectors: int, failed: int) -> Shard:
        digest = file_digest(self.vectors_file(number))
        return Shard(
            number, vectors, failed, digest, file_digest(self.errors_file(number)) if failed else ""
        )

    def _facts(self, number: int) -> dict[str, str]:
        return {
            "forwardpass.job": self.spec.id,
            "forwardpass.shard": str(number),
            **self.spec.space.facts(),
            **self.spec.plan.facts(),
        }


class FolderLock:
    """Keeps others from a folder; a context manager. The lock ends with the process.

    Args:
        path: The folder; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        file = self._path / ".lock"
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 256, 0).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            raise JobError(
                f"another process works in {self._path}: {owner or 'it has not said which'}"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(
            self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0
        )
        _sweep(self._path)

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _sweep(path: Path) -> None:
    """Removes what a killed job was writing."""
    for folder in (path, path / "vectors", path / "errors"):
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)


def _read_shards(manifest: Path, job: str) -> dict[int, Shard]:
    """Returns what a manifest says, nothing where there is none of this job."""
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if facts["job"] != job:
            return {}
        return {shard["number"]: Shard(**shard) for shard in facts["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
