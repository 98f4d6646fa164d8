"""A row's bytes, from wherever they lie. What a row cannot give is an error of that row alone."""

import functools
import hashlib
import os
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from forwardpass.client.jobs.listing import Kind, Row
from forwardpass.client.jobs.walk import MAX_FILE_BYTES, kind_of, suffix_of
from forwardpass.wire import Array

# Files of arrays and tables that are kept open, or held, at a time by a job.
_OPEN = 16
# The longest text: a megabyte is a book.
MAX_TEXT_BYTES = 1 << 20
# The most that the column of a Parquet file has in a row group, which is read whole.
MAX_GROUP_BYTES = 1 << 30
# The most that the array in a .npz has unpacked: zeros become a thousandth.
_MAX_ARCHIVE_BYTES = 1 << 30


class RowError(Exception):
    """A row that cannot be embedded; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class RowData:
    """What a row holds.

    Attributes:
        value: The file of a picture; a text; or an array.
        sha256: The digest of its bytes, in hexadecimal.
    """

    value: bytes | str | Array
    sha256: str


class RowReader:
    """Reads rows; may be used by several threads.

    Args:
        kind: What rows become.
        column: The column of Parquet files to read.
    """

    def __init__(self, kind: Kind, column: str | None) -> None:
        self._kind = kind
        self._column = column
        self._lock = threading.Lock()
        # Each instance has caches of its own.
        self._array_file = functools.lru_cache(_OPEN)(ArrayFile)
        self._archive = functools.lru_cache(1)(load_archive)
        self._row_group = functools.lru_cache(2)(self._load_row_group)
        self._table = functools.lru_cache(_OPEN)(_row_group_starts)

    def read(self, row: Row) -> RowData:
        """Returns what a row holds.

        Raises:
            RowError: It cannot be had: the file is gone, no regular one, too large, or unreadable.
        """
        try:
            value = self._value(row)
        except RowError:
            raise
        except MemoryError:
            raise RowError("there is not enough memory to read it") from None
        except OSError as error:
            raise RowError(error.strerror or str(error)) from None
        except (ValueError, EOFError) as error:
            raise RowError(f"the file is damaged: {error}") from None
        if isinstance(value, bytes):
            digest = hashlib.sha256(value).hexdigest()
            if self._kind is Kind.TEXTS:
                return RowData(_to_text(value), digest)
            return RowData(value, digest)
        return RowData(value, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest())

    def _value(self, row: Row) -> bytes | Array:
        suffix = suffix_of(row.path)
        if suffix == b".parquet":
            return self._from_parquet(row)
        if self._kind is not Kind.ARRAYS:
            whole = suffix not in (b".tar", b".txt")
            most = MAX_TEXT_BYTES if self._kind is Kind.TEXTS else MAX_FILE_BYTES
            return _read_file(row, whole=whole, most=most)
        with self._lock:
            if suffix == b".npz":
                array: Array = self._archive(row.path, row.mtime_ns)[row.place]
                return array
            return self._array_file(row.path).row(row.place)

    def _from_parquet(self, row: Row) -> bytes | Array:
        with self._lock:
            starts = self._table(row.path)
            group = int(np.searchsorted(starts, row.place, side="right")) - 1
            value = self._row_group(row.path, group)[row.place - int(starts[group])].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise RowError("its column holds nothing here")
        if isinstance(value, str):
            return value.encode()
        return value if isinstance(value, bytes) else np.asarray(value)

    def _load_row_group(self, path: bytes, group: int) -> Any:
        from pyarrow import parquet

        name = os.fsdecode(path)
        schema = parquet.read_metadata(name).schema
        parts = [schema.column(place) for place in range(len(schema.names))]
        # What is there a thousand times is held once, as it is written.
        strings = [
            part.path
            for part in parts
            if part.path.partition(".")[0] == self._column and part.physical_type == "BYTE_ARRAY"
        ]
        with parquet.ParquetFile(name, read_dictionary=strings) as opened:
            return opened.read_row_group(group, [self._column])[self._column]


def _to_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"the text is not UTF-8 at its byte {error.start}") from None


def open_regular(path: bytes) -> int:
    """Opens a regular file, and never waits for anybody; returns its descriptor.

    Raises:
        RowError: It is none.
        OSError: It cannot be opened.
    """
    # A FIFO would be opened when somebody writes to it, which may be never.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise RowError(f"{kind_of(mode)}, no regular file")
    return descriptor


def _read_file(row: Row, *, whole: bool, most: int) -> bytes:
    descriptor = open_regular(row.path)
    try:
        # A whole file is read as it is now; a part of one lies where the list says.
        size = os.fstat(descriptor).st_size if whole else row.size
        if size > most:
            raise RowError(f"it has {size} bytes; at most {most} are read")
        data = _read_exactly(descriptor, size, 0 if whole else row.offset)
    finally:
        os.close(descriptor)
    return data


def _read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    file = BytesIO()
    while file.tell() < size:
        part = os.pread(descriptor, size - file.tell(), offset + file.tell())
        if not part:
            raise RowError(f"the file ends after {offset + file.tell()} bytes: was it cut?")
        file.write(part)
    return file.getvalue()


class ArrayFile:
    """The rows of a .npy file. It is read, not mapped: a mapped file that is cut ends the process.

    Attributes:
        shape: Of the whole array.
        dtype: Of its elements.

    Args:
        path: Of the file.

    Raises:
        RowError: It is no regular file.
        ValueError: It is no array, or one of Python objects.
        OSError: It cannot be read.
    """

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._descriptor = open_regular(path)
        with os.fdopen(os.dup(self._descriptor), "rb") as file, warnings.catch_warnings():
            # Of headers that Python 2 wrote.
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            read_header: Callable[..., Any] = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, self._is_fortran, self.dtype = read_header(file)
            self._offset = file.tell()
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        self._columns: Array | None = None

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def row(self, place: int) -> Array:
        """Returns a row.

        Raises:
            RowError: The file is shorter than it was.
        """
        if self._is_fortran:
            # Its rows lie scattered.
            if self._columns is None:
                self._columns = np.load(os.fsdecode(self._path), allow_pickle=False)
            column: Array = self._columns[place]
            return column
        shape = self.shape[1:]
        size = self.dtype.itemsize * int(np.prod(shape))
        data = _read_exactly(self._descriptor, size, self._offset + place * size)
        return np.frombuffer(data, self.dtype).reshape(shape)


def load_archive(path: bytes, _mtime_ns: int) -> Array:
    """Returns the one array of a .npz file.

    Args:
        path: Of the file.
        _mtime_ns: When it was last changed, so that a cache holds nothing that is out of date.

    Raises:
        ValueError: It holds none, several, one of Python objects, or a gigabyte.
        OSError: It cannot be read.
    """
    with zipfile.ZipFile(os.fsdecode(path)) as members:
        if len(members.infolist()) != 1:
            names = ", ".join(members.namelist())
            raise ValueError(f"it holds {len(members.infolist())} arrays, not one: {names}")
        size = members.infolist()[0].file_size
    if size > _MAX_ARCHIVE_BYTES:
        raise ValueError(f"it has {size} bytes unpacked; at most {_MAX_ARCHIVE_BYTES} are read")
    with np.load(os.fsdecode(path), allow_pickle=False) as archive:
        loaded: Array = archive[archive.files[0]]
    return loaded


def _row_group_starts(path: bytes) -> Array:
    from pyarrow import parquet

    metadata = parquet.read_metadata(os.fsdecode(path))
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
