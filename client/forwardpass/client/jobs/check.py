"""Whether a job's folder holds what its list promises, and parts to a whole."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from forwardpass.artefact import file_digest
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.folder import JobFolder, Shard
from forwardpass.client.jobs.tables import vector_schema, vectors_of

_PART = re.compile(r"part-([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder holds.

    Attributes:
        rows: How many rows its job has.
        vectors: How many of them have a vector.
        errors: How many have an error instead.
        problems: What is wrong with it; none where every row has one or the other.
    """

    rows: int
    vectors: int
    errors: int
    problems: tuple[str, ...]


def check(folder: JobFolder) -> Checked:
    """Reads all of a job's files, and holds them against its list."""
    problems: list[str] = []
    vectors = errors = 0
    for number in folder.spec.shards:
        shard = folder.shards.get(number)
        if shard is None:
            problems.append(f"{folder.vectors_file(number).name} is missing, or is no shard of it")
            continue
        found = list(_problems(folder, shard))
        problems += [f"{folder.vectors_file(number).name}: {problem}" for problem in found]
        vectors += shard.vectors
        errors += shard.errors
    return Checked(folder.spec.part_rows, vectors, errors, tuple(problems))


def _problems(folder: JobFolder, shard: Shard) -> Iterator[str]:
    spec, files = folder.spec, [folder.vectors_file(shard.number)]
    digests = [shard.sha256]
    if shard.errors:
        files.append(folder.errors_file(shard.number))
        digests.append(shard.errors_sha256)
    tables = []
    for file, digest in zip(files, digests, strict=True):
        try:
            if file_digest(file) != digest:
                yield f"{file.parent.name}/{file.name} is not as it was written"
                return
            tables.append(parquet.read_table(file))
        except (OSError, pa.ArrowException) as error:
            yield f"it cannot be read: {error}"
            return
    if (tables[0].schema.metadata or {}).get(b"forwardpass.job") != spec.id.encode():
        yield "it is of another job"
        return
    if not tables[0].schema.equals(vector_schema(spec.space.dimension)):
        yield "its columns are not those of a table of vectors"
        return
    rows = [folder.listing[row] for row in spec.rows_of(shard.number)]
    expected = sorted((row.path, row.place) for row in rows)
    found = sorted(
        key
        for table in tables
        for key in zip(table["path"].to_pylist(), table["place"].to_pylist(), strict=True)
    )
    if found != expected:
        yield f"it holds {len(found)} rows that are not the {len(expected)} of the list"
    if not np.isfinite(vectors_of(tables[0])).all():
        yield "it holds vectors that are not finite"


def find_parts(path: Path) -> list[Path]:
    """Returns the folders of a job's parts in a folder, in their order."""
    found = [
        (int(match[1]), child) for child in path.iterdir() if (match := _PART.fullmatch(child.name))
    ]
    return [child for _, child in sorted(found)]


def part_folder(path: Path, part: tuple[int, int]) -> Path:
    """Returns where a part of a job is done: the folder itself where it is the only one."""
    index, count = part
    return path if count == 1 else path / f"part-{index}-of-{count}"


def merge(path: Path, parts: Sequence[Path]) -> JobFolder:
    """Makes one job of all its parts, whose files stay.

    Args:
        path: Where to.
        parts: The folders of the parts.

    Raises:
        JobError: They are not all parts of one job, or one is not complete.
        OSError: A file cannot be copied.
    """
    if not parts:
        raise JobError(f"there are no folders part-I-of-N in {path}: name the parts")
    folders = [JobFolder.open(part) for part in parts]
    _check_parts(folders)
    first = folders[0]
    if JobFolder.exists(path) and JobFolder.open(path).spec.id != first.spec.id:
        raise JobError(f"{path} holds another job")
    whole = JobFolder.create(path, replace(first.spec, part=(0, 1)), first.listing)
    for folder in folders:
        for number, shard in folder.shards.items():
            _put(folder.vectors_file(number), whole.vectors_file(number))
            if shard.errors:
                _put(folder.errors_file(number), whole.errors_file(number))
            whole.shards[number] = shard
    whole.write_manifest()
    return whole


def _check_parts(folders: Sequence[JobFolder]) -> None:
    """Raises JobError unless these are all parts of one job, and complete."""
    first = folders[0]
    count = first.spec.part[1]
    for folder in folders:
        if folder.spec.id != first.spec.id:
            differs = "list" if folder.spec.listing != first.spec.listing else "model or settings"
            raise JobError(
                f"{folder.path} is no part of the job of {first.path}: their {differs} differ"
            )
        if folder.spec.part[1] != count:
            raise JobError(f"{folder.path} is one of {folder.spec.part[1]} parts, not of {count}")
        missing = len(folder.spec.shards) - len(folder.shards)
        if missing:
            raise JobError(f"{folder.path} is not complete: {missing} shards are missing")
    lacking = sorted(set(range(count)) - {folder.spec.part[0] for folder in folders})
    if lacking:
        raise JobError(f"parts are missing: {', '.join(f'{index}/{count}' for index in lacking)}")


def _put(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where that cannot be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        shutil.copyfile(source, part)
        part.replace(target)
