"""Vectors to a file: Parquet with everything about each row, or .npy with the vectors alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import typer

from forwardpass.client.commands.embedding import Embedded

# Rows that are written together: few enough to hold, enough to compress and to read well.
_ROW_GROUP = 8_192


class VectorFile(ABC):
    """Takes rows in order; `finish` completes the file."""

    @abstractmethod
    def write(self, embedded: Embedded, names: Sequence[str], labels: Sequence[str]) -> None:
        """Adds consecutive rows, with the names and labels of just these."""

    @abstractmethod
    def finish(self) -> None:
        """Writes what is left."""


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
        return _ParquetFile(file, dimension, facts)
    return _NpyFile(file, dimension)


class _ParquetFile(VectorFile):
    def __init__(self, file: BinaryIO, dimension: int, facts: Mapping[str, str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._arrow = pa
        self._dimension = dimension
        self._schema = pa.schema(
            {
                "path": pa.string(),
                "label": pa.string(),
                "vector": pa.list_(pa.float32(), dimension),
                "error": pa.string(),
            },
            metadata=dict(facts),
        )
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._batches: list[Any] = []
        self._rows = 0

    def write(self, embedded: Embedded, names: Sequence[str], labels: Sequence[str]) -> None:
        pa = self._arrow
        failed = np.array([error is not None for error in embedded.errors])
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(embedded.vectors.ravel()), self._dimension, mask=pa.array(failed)
        )
        columns = [
            pa.array(names),
            pa.array(labels),
            vectors,
            pa.array(embedded.errors, pa.string()),
        ]
        self._batches.append(pa.record_batch(columns, schema=self._schema))
        self._rows += len(embedded.errors)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_batches(self._batches, self._schema))
        self._batches, self._rows = [], 0


class _NpyFile(VectorFile):
    def __init__(self, file: BinaryIO, dimension: int) -> None:
        self._file = file
        self._parts = [np.empty((0, dimension), np.float32)]

    def write(self, embedded: Embedded, names: Sequence[str], labels: Sequence[str]) -> None:
        del names, labels
        self._parts.append(embedded.vectors)

    def finish(self) -> None:
        np.save(self._file, np.concatenate(self._parts), allow_pickle=False)
