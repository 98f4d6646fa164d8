"""Vectors to one file: Parquet with everything about each row, or .npy with the vectors alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import typer

from forwardpass.client.jobs.listing import Row
from forwardpass.client.jobs.pipeline import Embedded
from forwardpass.client.whole_file import whole_file

# Rows that are written together: few enough to hold, enough to compress and to read well.
_ROW_GROUP = 8_192


class VectorFile(ABC):
    """Takes rows in order; `finish` completes the file."""

    @abstractmethod
    def write(self, embedded: Embedded, rows: Sequence[Row]) -> None:
        """Adds consecutive rows, as they were listed."""

    @abstractmethod
    def finish(self) -> None:
        """Writes what is left."""

    @abstractmethod
    def abandon(self) -> None:
        """Writes nothing more to a file that is thrown away."""


def check_kind(path: Path) -> None:
    """Checks that a vector file can be written under the name.

    Raises:
        typer.BadParameter: The name has another suffix.
        ModuleNotFoundError: The extra `embed` is not installed, which Parquet needs.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as _  # noqa: F401 - asked for before an hour's work, not after
    elif path.suffix != ".npy":
        raise typer.BadParameter(f"{path} ends neither in .parquet nor in .npy", param_hint="--out")


def vector_file(path: Path, file: BinaryIO, dimension: int, facts: Mapping[str, str]) -> VectorFile:
    """Returns the kind of file that the path's suffix names.

    Args:
        path: Ends in .parquet or .npy, as `check_kind` has seen.
        file: What to write to.
        dimension: The length of a vector.
        facts: Kept in the Parquet schema's metadata; a .npy has no place for them.
    """
    if path.suffix == ".parquet":
        return _ParquetFile(path, file, dimension, facts)
    return _NpyFile(file, dimension)


class _ParquetFile(VectorFile):
    """Rows with vectors; those with errors go to a file beside it, FILE.errors.parquet."""

    def __init__(
        self, path: Path, file: BinaryIO, dimension: int, facts: Mapping[str, str]
    ) -> None:
        from pyarrow import parquet

        from forwardpass.client.jobs import tables

        self._tables = tables
        self._errors_path = path.with_suffix(".errors.parquet")
        self._dimension = dimension
        self._facts = dict(facts)
        schema = tables.vector_schema(dimension).with_metadata(self._facts)
        self._writer = parquet.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=["label"]
        )
        self._parts: list[Any] = []
        self._errors: list[Any] = []

    def write(self, embedded: Embedded, rows: Sequence[Row]) -> None:
        tables = self._tables
        self._parts.append(tables.vector_table(rows, embedded, self._dimension, self._facts))
        if any(embedded.errors):
            self._errors.append(tables.error_table(rows, embedded, self._facts))
        if sum(map(len, self._parts)) >= _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        if self._errors:
            import pyarrow as pa

            with whole_file(self._errors_path) as file:
                self._tables.write_table(pa.concat_tables(self._errors), file)
        else:
            self._errors_path.unlink(missing_ok=True)

    def abandon(self) -> None:
        # Left open, it would write to the file once that is closed.
        self._writer.close()

    def _flush(self) -> None:
        if self._parts:
            import pyarrow as pa

            self._writer.write_table(pa.concat_tables(self._parts))
            self._parts = []


class _NpyFile(VectorFile):
    def __init__(self, file: BinaryIO, dimension: int) -> None:
        self._file = file
        self._parts = [np.empty((0, dimension), np.float32)]

    def write(self, embedded: Embedded, rows: Sequence[Row]) -> None:
        del rows
        self._parts.append(embedded.vectors)

    def abandon(self) -> None:
        self._parts = []

    def finish(self) -> None:
        np.save(self._file, np.concatenate(self._parts), allow_pickle=False)
