"""Pictures of one's own as pixels, decoded as servers do, and kept on disk, not in memory."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.embedder import cores
from forwardpass.client.jobs.listing import Kind, Row
from forwardpass.client.jobs.pictures import Decoder
from forwardpass.client.jobs.reading import RowError, RowReader
from forwardpass.trainer.data.folders import Listing, Why
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.interrupt import check
from forwardpass.trainer.training.progress import Reporter
from forwardpass.wire import Array

# Pictures that are held in memory at a time.
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Pictures, each in the size that a model takes.

    Attributes:
        pixels: uint8 (n, height, width, channels), of which memory holds what is being looked at.
        digests: SHA-256 of each picture's pixels (n).
        rows: The files that they are from (n).
    """

    pixels: Array
    digests: Sequence[bytes]
    rows: Sequence[Row]


def decode(listing: Listing, image: ImageInput, place: Path, reporter: Reporter) -> Decoded:
    """Returns the pixels of all files that are pictures; the listing gets those that are not.

    Args:
        listing: The files.
        image: The size to bring them to, and how.
        place: A folder with room for the pixels, which are in no file that has a name: they are
            gone with the process, however it ends.
        reporter: Where progress is told.

    Raises:
        DataError: There is no room, or none of the files is a picture.
    """
    digests: list[bytes] = []
    rows: list[Row] = []

    def batches() -> Iterator[Array]:
        for pictures in _read(listing, image, reporter):
            for row, pixels in pictures:
                digests.append(hashlib.sha256(pixels.tobytes()).digest())
                rows.append(row)
                yield pixels

    pixels = keep_on_disk(batches(), (image.height, image.width, image.channels), place)
    return Decoded(pixels, digests, rows)


def _read(
    listing: Listing, image: ImageInput, reporter: Reporter
) -> Iterator[list[tuple[Row, NDArray[np.uint8]]]]:
    """Yields the pictures of some files at a time, decoded by all cores."""
    reader, decoder = RowReader(Kind.PICTURES, None), Decoder(image, invert=False)

    def read(row: Row) -> NDArray[np.uint8] | RowError:
        try:
            data = reader.read(row).value
            assert isinstance(data, bytes)
            return decoder.decode(data).pixels
        except RowError as error:
            return error

    starts = range(0, len(listing.rows), _BATCH)
    with ThreadPoolExecutor(cores(), "decode") as pool:
        for start in reporter.items(starts, "reading pictures"):
            check()
            rows = listing.rows[start : start + _BATCH]
            pictures = []
            for row, found in zip(rows, pool.map(read, rows), strict=True):
                if isinstance(found, RowError):
                    listing.left_out.leave_file(row.path, Why.UNREADABLE, str(found))
                else:
                    pictures.append((row, found))
            yield pictures


def keep_on_disk(rows: Iterable[Array], shape: tuple[int, ...], place: Path) -> Array:
    """Returns rows as one array that lies on disk: uint8 (n, *shape), which may be written to.

    Args:
        rows: uint8, each of the shape; not none.
        shape: Of a row.
        place: As in `decode`.

    Raises:
        DataError: There is no room.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            for row in rows:
                file.write(np.ascontiguousarray(row).data)
            file.flush()
            count = file.tell() // int(np.prod(shape))
            if not count:
                return np.empty((0, *shape), np.uint8)
            # What is written to it stays in memory: torch takes no array that cannot be.
            return np.memmap(file, np.uint8, "c", shape=(count, *shape))
    except OSError as error:
        raise DataError(
            f"the pictures' pixels cannot be kept in {place}: {error.strerror or error}. Give "
            "another place, by --runs"
        ) from error
