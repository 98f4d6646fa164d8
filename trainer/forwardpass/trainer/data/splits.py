"""Which rows of one's own data are learned from, chosen by and measured on: told by their content.

So the same rows are test rows whatever the seed, or results could not be compared; whatever order
or names they come in; and, but for some, when others are added.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.wire import Array

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.15

Rows = NDArray[np.int64]


class Splits(NamedTuple):
    """Rows, each in ascending order, and none in two."""

    train: Rows
    validation: Rows
    test: Rows


def row_digest(*values: object) -> bytes:
    """Returns the SHA-256 of a row's numbers and texts."""
    return hashlib.sha256(repr(values).encode()).digest()


def split(
    digests: Sequence[bytes],
    strata: Sequence[int],
    *,
    test: float = TEST_SHARE,
    validation: float = VALIDATION_SHARE,
) -> Splits:
    """Splits rows in the order of their digests, which is as good as a random one.

    Each class has about the same share of each part. Where all rows of a class are copies of less
    than three, it is in the training rows, then in the test rows.

    Args:
        digests: Of what is in each row. Rows with equal ones are copies, and stay together (rows).
        strata: The class of each row, or 0 for all (rows).
        test: The share of the test rows; 0 for none.
        validation: The share of those to choose by; 0 for none.

    Raises:
        DataError: A part has no rows, as there are too few different ones.
    """
    copies: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        copies.setdefault(digest, []).append(row)
    groups: dict[int, list[list[int]]] = {}
    for _, rows in sorted(copies.items()):
        groups.setdefault(strata[rows[0]], []).append(rows)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for left in groups.values():
        count, remaining = sum(map(len, left)), left
        for part, share in ((2, test), (1, validation)):
            if share and len(remaining) > 1:
                taken, remaining = _take(remaining, max(1, round(share * count)))
                parts[part].extend(taken)
        parts[0].extend(row for rows in remaining for row in rows)
    if (validation and not parts[1]) or (test and not parts[2]):
        raise DataError(
            f"{len(digests)} rows are copies of {len(copies)}, which are too few to learn from "
            "some, choose by others and measure on others; give more that differ"
        )
    return Splits(*(np.array(sorted(part), np.int64) for part in parts))


def _spread(count: int, rows: int) -> Rows:
    """Returns so many rows of all, as far from each other as can be: a file may be sorted."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.int64))


def limited(count: int, targets: Sequence[Array]) -> list[Rows]:
    """Returns `count` rows of each part, from all over it.

    Args:
        count: How many; fewer where a part has fewer.
        targets: Of each part (its rows), those of the training rows first.

    Raises:
        SettingError: The training rows that are left are all alike.
    """
    rows = [_spread(count, len(each)) for each in targets]
    if len(np.unique(targets[0][rows[0]])) < 2:
        raise SettingError(f"limit={count} leaves nothing to tell apart; give a greater one")
    return rows


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
