"""Which rows of one's own data are learned from, chosen by and measured on."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.errors import DataError

# Which rows are test rows must not change with a run's seed, or results could not be compared.
_SPLIT_SEED = 0
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.15

Rows = NDArray[np.int64]


class Splits(NamedTuple):
    """Rows, each in ascending order, and none in two."""

    train: Rows
    validation: Rows
    test: Rows


def split(keys: Sequence[Hashable], strata: Sequence[int], *, test: float = TEST_SHARE) -> Splits:
    """Splits rows at random, the same rows each time.

    Each class has about the same share of each part. Where all rows of a class are copies of less
    than three, it is in the training rows, then in the test rows.

    Args:
        keys: Rows with equal keys are copies of each other, and stay together (rows).
        strata: The class of each row, or 0 for all (rows).
        test: The share of the test rows; 0 for none.

    Raises:
        DataError: A part has no rows, as there are too few different ones.
    """
    draws = np.random.default_rng(_SPLIT_SEED)
    copies: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        copies.setdefault(key, []).append(row)
    groups: dict[int, list[list[int]]] = {}
    for rows in copies.values():
        groups.setdefault(strata[rows[0]], []).append(rows)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for _, left in sorted(groups.items()):
        draws.shuffle(left)
        count, remaining = sum(map(len, left)), left
        for part, share in ((2, test), (1, VALIDATION_SHARE)):
            if share and len(remaining) > 1:
                taken, remaining = _take(remaining, max(1, round(share * count)))
                parts[part].extend(taken)
        parts[0].extend(row for rows in remaining for row in rows)
    if not parts[1] or (test and not parts[2]):
        raise DataError(
            f"{len(keys)} rows are copies of {len(copies)}, which are too few to learn from some, "
            "choose by others and measure on others; give more that differ"
        )
    return Splits(*(np.array(sorted(part), np.int64) for part in parts))


def spread(count: int, rows: int) -> Rows:
    """Returns so many rows of all, as far from each other as can be: a file may be sorted."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.int64))


def _take(groups: list[list[int]], wanted: int) -> tuple[list[int], list[list[int]]]:
    """Returns the rows of some groups, about as many as are wanted, and the other groups."""
    taken: list[int] = []
    others = []
    for rows in groups:
        if len(taken) + len(rows) <= wanted:
            taken.extend(rows)
        else:
            others.append(rows)
    if not taken:
        taken = min(others, key=len)
        others = [rows for rows in others if rows is not taken]
    return taken, others
