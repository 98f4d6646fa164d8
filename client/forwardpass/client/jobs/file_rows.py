"""The rows of files, of each kind of file in its own way."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np

from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.listing import Kind, Row, as_text, folder_label
from forwardpass.client.jobs.reading import (
    MAX_GROUP_BYTES,
    MAX_TEXT_BYTES,
    ArrayFile,
    RowError,
    load_archive,
)
from forwardpass.client.jobs.walk import FoundFile, LeftOut, suffix_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

PICTURE_SUFFIXES = frozenset(
    {b".jpg", b".jpeg", b".png", b".webp", b".gif", b".tif", b".tiff", b".bmp"}
)
PARQUET = b".parquet"
# What is said of a text by its first characters.
_TITLE = 120
# What stands before a member and says more of it: long names, and what pax adds.
_ABOUT_MEMBERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_HEADER_BYTES = 1 << 20
# A label in a tar is a word or a number.
_LABEL_BYTES = 256


class FileRows:
    """Finds the rows of files, each kind of file in its own way."""

    def __init__(self, kind: Kind, column: str | None) -> None:
        self._kind = kind
        self._column = column
        self._ways: dict[bytes, Callable[[FoundFile], Iterator[Row]]] = {
            b".tar": self._of_tar,
            b".txt": self._of_lines,
            b".npy": self._of_array,
            b".npz": self._of_archive,
            PARQUET: self._of_parquet,
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
        with tarfile.open(os.fsdecode(file.path), "r:", tarinfo=_Member) as archive:
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
                kind = kind_of_type(column_type(schema, self._column, file.path))
                if kind is not self._kind:
                    raise ValueError(f"its column {self._column!r} holds {kind}")
                _check_parts(opened.metadata, self._column)
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


def column_type(schema: "pa.Schema", column: str, path: bytes) -> "pa.DataType":
    """Returns the type of a Parquet file's column.

    Raises:
        JobError: There is none such.
    """
    if column not in schema.names:
        names = ", ".join(schema.names)
        raise JobError(f"{as_text(path)} has no column {column!r}; it has {names}")
    return schema.field(column).type


def kind_of_type(kind: "pa.DataType") -> Kind:
    """Returns what a column of a type holds."""
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind):
        return Kind.TEXTS
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind):
        # Hugging Face's images are structs of bytes and path.
        return Kind.PICTURES
    return Kind.ARRAYS


class _Member(tarfile.TarInfo):
    """A member of a tar, or one that stands before it and says more of it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Returns the member of a header.

        Raises:
            ValueError: What is said of a member is so long that it would take all memory.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _ABOUT_MEMBERS and member.size > _HEADER_BYTES:
            raise ValueError(f"a header has {member.size} bytes; at most {_HEADER_BYTES} are read")
        return member


def _check_parts(metadata: "parquet.FileMetaData", column: str) -> None:
    """Refuses a Parquet file of which one part would take all memory.

    Raises:
        ValueError: The column has more bytes in a row group than are read at a time.
    """
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = [group.column(place) for place in range(group.num_columns)]
        size = sum(
            part.total_uncompressed_size
            for part in parts
            if part.path_in_schema.partition(".")[0] in (column, "label")
        )
        if size > MAX_GROUP_BYTES:
            raise ValueError(
                f"its row group {number} has {size} bytes in column {column!r}; at most "
                f"{MAX_GROUP_BYTES} are read: write it with smaller row groups"
            )


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
