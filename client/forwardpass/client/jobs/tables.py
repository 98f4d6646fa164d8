"""A job's tables in Parquet: rows with vectors, rows with errors, and the list itself.

Everybody reads them: a vector is never null, since pyarrow before 21 could not read a column of
vectors with one that is, and errors have a table of their own.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from forwardpass.client.jobs.listing import Kind, Listing, Row, as_text
from forwardpass.client.jobs.pipeline import Embedded
from forwardpass.client.jobs.walk import LeftOut

_ROW = (
    pa.field("path", pa.binary(), nullable=False),
    pa.field("path_text", pa.string(), nullable=False),
    pa.field("place", pa.int64(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),
    pa.field("label", pa.string(), nullable=False),
)
_ERRORS = pa.schema([*_ROW, pa.field("error", pa.string(), nullable=False)])
_LISTING = pa.schema(
    {
        "path": pa.binary(),
        "place": pa.int64(),
        "name": pa.binary(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "label": pa.string(),
    }
)
_LEFT_OUT = pa.schema({"path": pa.binary(), "path_text": pa.string(), "reason": pa.string()})
_ROWS_A_GROUP = 1 << 17


def vector_schema(dimension: int) -> pa.Schema:
    """Returns the columns of a table of vectors."""
    item = pa.field("item", pa.float32(), nullable=False)
    return pa.schema(
        [
            *_ROW,
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("embedding", pa.list_(item, dimension), nullable=False),
        ]
    )


def vector_table(
    rows: Sequence[Row], embedded: Embedded, dimension: int, facts: Mapping[str, str]
) -> pa.Table:
    """Returns the rows that have vectors, with those.

    Args:
        rows: The rows embedded.
        embedded: What they have become.
        dimension: The length of a vector.
        facts: Kept in the file beside the columns.
    """
    good = [place for place, error in enumerate(embedded.errors) if error is None]
    schema = vector_schema(dimension)
    vectors = np.ascontiguousarray(embedded.vectors[good], np.float32)
    columns = [
        *_row_columns([rows[place] for place in good], [embedded.hashes[place] for place in good]),
        pa.array(embedded.sizes[good, 0]),
        pa.array(embedded.sizes[good, 1]),
        pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), type=schema.field("embedding").type
        ),
    ]
    return pa.table(columns, schema=schema.with_metadata(dict(facts)))


def error_table(rows: Sequence[Row], embedded: Embedded, facts: Mapping[str, str]) -> pa.Table:
    """Returns the rows that have no vectors, with the reasons."""
    bad = [place for place, error in enumerate(embedded.errors) if error is not None]
    columns = [
        *_row_columns([rows[place] for place in bad], [embedded.hashes[place] for place in bad]),
        pa.array([embedded.errors[place] for place in bad], pa.string()),
    ]
    return pa.table(columns, schema=_ERRORS.with_metadata(dict(facts)))


def write_table(table: pa.Table, file: BinaryIO) -> None:
    """Writes a table: the same bytes for the same table."""
    names = [name for name in table.column_names if name not in ("embedding", "sha256")]
    parquet.write_table(
        table, file, row_group_size=_ROWS_A_GROUP, compression="zstd", use_dictionary=names
    )


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """Returns the vectors of a table, float32 (rows, dimension)."""
    column = table["embedding"].combine_chunks()
    flat = column.flatten() if len(column) else column.values[:0]
    vectors: NDArray[np.float32] = flat.to_numpy().reshape(len(column), column.type.list_size)
    return vectors


def listing_tables(listing: Listing) -> tuple[pa.Table, pa.Table]:
    """Returns a list, and the inputs that it leaves out."""
    columns = [
        pa.DictionaryArray.from_arrays(
            pa.array(listing.files), pa.array(listing.paths, pa.binary())
        ).cast(pa.binary()),
        pa.array(listing.places),
        pa.array([name.encode("utf-8", "surrogateescape") for name in listing.names], pa.binary()),
        pa.array(listing.offsets),
        pa.array(listing.sizes),
        pa.array(listing.mtimes[listing.files]),
        pa.array(listing.labels, pa.string()),
    ]
    schema = _LISTING.with_metadata({"forwardpass.kind": str(listing.kind)})
    left_out = pa.table(
        {
            "path": [left.path for left in listing.left_out],
            "path_text": [as_text(left.path) for left in listing.left_out],
            "reason": [left.reason for left in listing.left_out],
        },
        schema=_LEFT_OUT,
    )
    return pa.table(columns, schema=schema), left_out


def read_listing(listing: Path, left_out: Path) -> Listing:
    """Returns a list that was written.

    Raises:
        OSError: A file cannot be read.
        pyarrow.ArrowException: A file is none of ours.
    """
    table = parquet.read_table(listing)
    kind = Kind((table.schema.metadata or {})[b"forwardpass.kind"].decode())
    loaded = Listing.of(kind, _rows_of(table))
    loaded.left_out = [
        LeftOut(row["path"], row["reason"]) for row in parquet.read_table(left_out).to_pylist()
    ]
    return loaded


def _rows_of(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(1 << 14):
        columns = [column.to_pylist() for column in batch.columns]
        for path, place, name, offset, size, mtime_ns, label in zip(*columns, strict=True):
            text = name.decode("utf-8", "surrogateescape")
            yield Row(path, place, text, offset, size, mtime_ns, label)


def _row_columns(rows: Sequence[Row], hashes: Sequence[str]) -> list[pa.Array]:
    return [
        pa.array([row.path for row in rows], pa.binary()),
        pa.array([as_text(row.path) for row in rows], pa.string()),
        pa.array([row.place for row in rows], pa.int64()),
        # Half of a surrogate pair, which stands for a byte that is no text, is none in Parquet.
        pa.array([as_text(os.fsencode(row.name)) for row in rows], pa.string()),
        pa.array(hashes, pa.string()),
        pa.array([row.label for row in rows], pa.string()),
    ]
