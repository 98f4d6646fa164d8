"""What was named on the command line, to a list of rows."""

import glob
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind, Listing, Row, as_text, folder_label
from forwardpass.client.jobs.reading import (
    MAX_TEXT_BYTES,
    ArrayFile,
    RowError,
    load_archive,
)
from forwardpass.client.jobs.walk import (
    MAX_FILE_BYTES,
    FoundFile,
    LeftOut,
    Walk,
    count_refused,
    suffix_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

PICTURE_SUFFIXES = frozenset(
    {b".jpg", b".jpeg", b".png", b".webp", b".gif", b".tif", b".tiff", b".bmp"}
)
_SUFFIXES = {
    Kind.PICTURES: PICTURE_SUFFIXES | {b".tar"},
    Kind.TEXTS: frozenset({b".txt"}),
    Kind.ARRAYS: frozenset({b".npy", b".npz"}),
}
_PARQUET = b".parquet"
# What is said of a text by its first characters.
_TITLE = 120
# A label in a tar is a word or a number.
_LABEL_BYTES = 256


@dataclass(frozen=True, slots=True)
class Takes:
    """What a model can be given.

    Attributes:
        pictures: Whether it has an input for encoded images.
        texts: Whether it has a text input.
        arrays: Whether it has one input, and so takes arrays without names.
    """

    pictures: bool
    texts: bool
    arrays: bool


@dataclass(frozen=True, slots=True)
class Sources:
    """What is to be embedded.

    Attributes:
        given: Files, folders and patterns, such as b"photos/**/*.jpg".
        listed: Files that stand in a list; None where there is no list. One that cannot be taken is
            left out, where one of those given is an error.
        column: The column of Parquet files to take.
        follow: Whether to follow links.
    """

    given: Sequence[bytes]
    listed: Sequence[bytes] | None = None
    column: str | None = None
    follow: bool = True


def read_file_list(data: bytes) -> list[bytes]:
    """Returns the paths in a list: each ends with a NUL, or where there is none with a line end."""
    paths = data.split(b"\0" if b"\0" in data else b"\n")
    return [path for path in paths if path]


def list_rows(
    sources: Sources,
    takes: Takes,
    model: str,
    *,
    in_order: bool = False,
    may_be_empty: bool = False,
) -> Listing:
    """Returns the rows that are to be embedded.

    Args:
        sources: Where they are.
        takes: What the model takes.
        model: Its name, for errors.
        in_order: Whether what was given first comes first; otherwise rows go by path.
        may_be_empty: Whether nothing at all is a list as well.

    Raises:
        JobError: Nothing is found, or the model does not take what is.
    """
    given = [path for source in sources.given for path in _expand(source)]
    kind = _kind(given, takes, model, sources.column)
    suffixes = _SUFFIXES[kind] | ({_PARQUET} if sources.column else frozenset())
    for path in given:
        if not os.path.isdir(path) and suffix_of(path) not in suffixes:  # noqa: PTH112 - of bytes
            raise JobError(_unexpected(path, kind, suffixes))
    walk = Walk(suffixes.__contains__, follow=sources.follow, max_bytes=_max_bytes)
    found = walk.found
    for path in given:
        begin = len(found.files)
        walk.add(path)
        found.files[begin:] = sorted(found.files[begin:], key=lambda file: file.path)
    for path in sources.listed or ():
        if suffix_of(path) in suffixes:
            walk.add(path)
        else:
            found.left_out.append(LeftOut(path, "its suffix is none of those that are read"))
    files = list({file.path: file for file in found.files}.values())
    if not in_order:
        files.sort(key=lambda file: file.path)
    reader = _Lister(kind, sources.column)
    listing = Listing.of(kind, reader.rows(files, found.left_out))
    listing.left_out = sorted(found.left_out, key=lambda left: left.path)
    listing.skipped = {as_text(suffix): count for suffix, count in sorted(found.skipped.items())}
    listing.links = found.links
    if not len(listing) and not may_be_empty:
        raise JobError(_nothing(given, kind, listing))
    return listing


def refused(listing: Listing) -> int:
    """Returns how many inputs are left out, or may have been meant and have another suffix."""
    skipped = {os.fsencode(suffix): count for suffix, count in listing.skipped.items()}
    return len(listing.left_out) + count_refused(skipped)


def _expand(source: bytes) -> list[bytes]:
    if os.path.lexists(source):
        return [source]
    if any(character in source for character in (b"*", b"?", b"[")):
        found = sorted(glob.iglob(source, recursive=True))  # noqa: PTH207 - of bytes
        if found:
            return found
        raise JobError(f"nothing matches {as_text(source)}")
    raise JobError(f"{as_text(source)} does not exist")


def _kind(given: Sequence[bytes], takes: Takes, model: str, column: str | None) -> Kind:
    """Returns what the rows become: as the files' suffixes say, else what the model takes."""
    able = {Kind.PICTURES: takes.pictures, Kind.TEXTS: takes.texts, Kind.ARRAYS: takes.arrays}
    named = {
        kind
        for path in given
        if not os.path.isdir(path)  # noqa: PTH112 - of bytes
        for kind, suffixes in _SUFFIXES.items()
        if suffix_of(path) in suffixes
    }
    if len(named) > 1:
        raise JobError(f"{' and '.join(sorted(named))} do not go together: give each a job")
    if not named and column is not None:
        named = {_kind_of_column(path, column) for path in given if suffix_of(path) == _PARQUET}
    kind = next(iter(named), None) or next(
        (kind for kind, is_able in able.items() if is_able), None
    )
    if kind is None or not able[kind]:
        what = "images" if kind is Kind.PICTURES else str(kind or "one array")
        hint = (
            "" if takes.pictures or not takes.arrays else (": give the rows of its input as a .npy")
        )
        raise JobError(f"{model} takes no {what}{hint}")
    return kind


def _kind_of_column(path: bytes, column: str) -> Kind:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(os.fsdecode(path))
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{as_text(path)} cannot be read: {error}") from None
    return _kind_of_type(_column_type(schema, column, path))


def _column_type(schema: "pa.Schema", column: str, path: bytes) -> "pa.DataType":
    if column not in schema.names:
        names = ", ".join(schema.names)
        raise JobError(f"{as_text(path)} has no column {column!r}; it has {names}")
    return schema.field(column).type


def _kind_of_type(kind: "pa.DataType") -> Kind:
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind):
        return Kind.TEXTS
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind):
        # Hugging Face's images are structs of bytes and path.
        return Kind.PICTURES
    return Kind.ARRAYS


def _max_bytes(suffix: bytes) -> int:
    # Of the others only what is asked for is read at a time.
    return MAX_FILE_BYTES if suffix in PICTURE_SUFFIXES else 1 << 62


def _unexpected(path: bytes, kind: Kind, suffixes: Iterable[bytes]) -> str:
    if suffix_of(path) == _PARQUET:
        return f"{as_text(path)}: name the column with --column"
    expected = ", ".join(sorted(map(as_text, suffixes)))
    return f"{as_text(path)}: expected a folder, or for {kind} {expected}"


def _nothing(given: Sequence[bytes], kind: Kind, listing: Listing) -> str:
    places = ", ".join(map(as_text, given)) or "the list"
    message = f"no {kind} in {places}"
    if listing.left_out:
        first = listing.left_out[0]
        message += f"; {len(listing.left_out)} left out, such as {as_text(first.path)}: "
        message += first.reason
    elif listing.skipped:
        message += "; there are " + ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in listing.skipped.items()
        )
    return message


class _Lister:
    """Finds the rows of files, each kind of file in its own way."""

    def __init__(self, kind: Kind, column: str | None) -> None:
        self._kind = kind
        self._column = column
        self._ways: dict[bytes, Callable[[FoundFile], Iterator[Row]]] = {
            b".tar": self._of_tar,
            b".txt": self._of_lines,
            b".npy": self._of_array,
            b".npz": self._of_archive,
            _PARQUET: self._of_parquet,
        }

    def rows(self, files: Iterable[FoundFile], left_out: list[LeftOut]) -> Iterator[Row]:
        """Yields the rows of all files; one that cannot be read is left out whole."""
        for file in files:
            way = self._ways.get(suffix_of(file.path))
            if way is None:
                label = folder_label(file.path)
                yield Row(file.path, 0, "", 0, file.size, file.mtime_ns, label)
                continue
            try:
                yield from list(way(file))
            except (
                OSError,
                ValueError,
                EOFError,
                RowError,
                tarfile.TarError,
                zipfile.BadZipFile,
                MemoryError,
            ) as error:
                reason = str(error) or type(error).__name__
                left_out.append(LeftOut(file.path, f"it cannot be read: {reason}"))

    def _of_tar(self, file: FoundFile) -> Iterator[Row]:
        """Yields a row for each picture; a member KEY.cls beside it is its label."""
        labels: dict[str, str] = {}
        rows: list[tuple[str, Row]] = []
        with tarfile.open(os.fsdecode(file.path), "r:") as archive:
            for place, member in enumerate(archive):
                suffix = suffix_of(member.name.encode("utf-8", "surrogateescape"))
                key = _key(member.name)
                if not member.isreg():
                    continue
                if suffix == b".cls" and member.size <= _LABEL_BYTES:
                    opened = archive.extractfile(member)
                    labels[key] = opened.read().decode("utf-8", "replace").strip() if opened else ""
                elif suffix in PICTURE_SUFFIXES:
                    row = Row(
                        file.path,
                        place,
                        member.name,
                        member.offset_data,
                        member.size,
                        file.mtime_ns,
                        "",
                    )
                    rows.append((key, row))
                # A tar keeps every header it has seen.
                archive.members = []  # type: ignore[attr-defined]
        for key, row in rows:
            yield replace(row, label=labels.get(key, ""))

    @staticmethod
    def _of_lines(file: FoundFile) -> Iterator[Row]:
        """Yields a row for each line that is not blank."""
        offset = 0
        with Path(os.fsdecode(file.path)).open("rb") as opened:
            for place, (line, length) in enumerate(_lines(opened)):
                text = line.strip()
                if text:
                    begin = offset + line.index(text)
                    title = as_text(text[: 4 * _TITLE])[:_TITLE]
                    # Of one that is too long to be read only that is known.
                    size = len(text) if length == len(line) else length
                    yield Row(file.path, place, title, begin, size, file.mtime_ns, "")
                offset += length

    @staticmethod
    def _of_array(file: FoundFile) -> Iterator[Row]:
        array = ArrayFile(file.path)
        yield from _array_rows(file, array.shape, array.dtype.itemsize)

    @staticmethod
    def _of_archive(file: FoundFile) -> Iterator[Row]:
        array = load_archive(file.path, file.mtime_ns)
        yield from _array_rows(file, array.shape, array.itemsize)

    def _of_parquet(self, file: FoundFile) -> Iterator[Row]:
        from pyarrow import parquet

        assert self._column is not None
        try:
            with parquet.ParquetFile(os.fsdecode(file.path)) as opened:
                schema = opened.schema_arrow
                kind = _kind_of_type(_column_type(schema, self._column, file.path))
                if kind is not self._kind:
                    raise ValueError(f"its column {self._column!r} holds {kind}")
                count = opened.metadata.num_rows
                labels = (
                    map(str, opened.read(["label"])["label"].to_pylist())
                    if "label" in schema.names and self._column != "label"
                    else iter([""] * count)
                )
        except JobError as error:
            raise ValueError(str(error)) from None
        for place, label in enumerate(labels):
            yield Row(file.path, place, "", 0, 0, file.mtime_ns, label)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields each line and its length; of one that is longer than a text may be, its beginning."""
    while line := file.readline(MAX_TEXT_BYTES + 1):
        length, part = len(line), line
        while not part.endswith(b"\n") and (part := file.readline(MAX_TEXT_BYTES)):
            length += len(part)
        yield line, length


def _array_rows(file: FoundFile, shape: tuple[int, ...], itemsize: int) -> Iterator[Row]:
    if not shape:
        raise ValueError("it holds one number, no rows")
    size = itemsize * int(np.prod(shape[1:]))
    for place in range(shape[0]):
        yield Row(file.path, place, "", 0, size, file.mtime_ns, "")


def _key(name: str) -> str:
    """Returns what members of one sample share: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
