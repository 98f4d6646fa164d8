"""Which vectors lie nearest, by the cosine of the angle between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from forwardpass.client.jobs.geometry import unit

# How many vectors neighbours are shown for, and how large a picture of one is, in pixels.
_QUERIES = 8
_THUMBNAIL = 96


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The nearest of some rows.

    Attributes:
        queries: int64 (queries,): the rows asked about.
        nearest: int64 (queries, k): for each its nearest other rows, nearest first.
        cosines: float32 (queries, k), in [-1, 1].
    """

    queries: NDArray[np.int64]
    nearest: NDArray[np.int64]
    cosines: NDArray[np.float32]


def find_neighbours(vectors: NDArray[np.float32], k: int) -> Neighbours:
    """Finds the k nearest rows of up to 8 rows spread evenly over `vectors`.

    Args:
        vectors: float32 (rows, dimension), at least 2 rows. A zero vector is near to none.
        k: At least 1; where there are fewer other rows, all of them are given.
    """
    rows = len(vectors)
    k = min(k, rows - 1)
    scaled = unit(vectors)
    queries = np.unique(np.linspace(0, rows - 1, _QUERIES).astype(np.int64))
    cosines = scaled[queries] @ scaled.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    # A stable sort gives equal images in the order of their rows, on every machine.
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return Neighbours(queries, nearest, np.take_along_axis(cosines, nearest, axis=1))


def neighbour_table(found: Neighbours, names: Sequence[str]) -> Table:
    """Returns a table: the queries and their nearest, each with its cosine."""
    table = Table("row", "nearest", "cosine")
    for query, nearest, cosines in zip(found.queries, found.nearest, found.cosines, strict=True):
        for place, (row, cosine) in enumerate(zip(nearest, cosines, strict=True)):
            table.add_row(
                names[query] if place == 0 else "",
                names[row],
                f"{cosine:.3f}",
                end_section=place == len(nearest) - 1,
            )
    return table


def neighbour_lists(found: Neighbours, names: Sequence[str]) -> list[dict[str, object]]:
    """Returns the same as the table, for programs."""
    return [
        {
            "input": names[query],
            "nearest": [
                {"input": names[row], "cosine": float(cosine)}
                for row, cosine in zip(nearest, cosines, strict=True)
            ],
        }
        for query, nearest, cosines in zip(found.queries, found.nearest, found.cosines, strict=True)
    ]


def neighbour_picture(found: Neighbours, paths: Sequence[Path]) -> bytes:
    """Returns a PNG: in each row a query's image, and then its nearest."""
    rows = np.concatenate([found.queries[:, None], found.nearest], axis=1)
    return thumbnails([paths[row] for row in rows.flat], rows.shape[1])


def thumbnails(paths: Sequence[Path], columns: int) -> bytes:
    """Returns a PNG of images, laid out in rows."""
    from forwardpass.pixels import FILE_FORMATS, encode_png, image_grid, open_image, to_pixels

    images = [
        to_pixels(open_image(path.read_bytes(), formats=FILE_FORMATS), 3, (_THUMBNAIL, _THUMBNAIL))
        for path in paths
    ]
    return encode_png(image_grid(np.stack(images), columns=columns))
