"""Which rows are learned from, chosen by and measured on."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardpass.trainer.data.splits import row_digest, split
from forwardpass.trainer.errors import DataError


def digests(rows: Iterable[object]) -> list[bytes]:
    return [row_digest(row) for row in rows]


def test_each_class_has_its_share_of_each_part() -> None:
    classes = [0] * 300 + [1] * 100 + [2] * 20
    parts = split(digests(range(len(classes))), classes)
    assert sorted(np.concatenate(parts).tolist()) == list(range(420))
    counts = [Counter(np.take(classes, part).tolist()) for part in parts]
    assert [list(dict(sorted(count.items())).values()) for count in counts] == [
        [195, 65, 13],
        [45, 15, 3],
        [60, 20, 4],
    ]


def test_the_same_rows_are_test_rows_in_whatever_order_they_come() -> None:
    first = split(digests(range(100)), [0] * 100)
    turned = split(digests(range(99, -1, -1)), [0] * 100)
    for one, other in zip(first, turned, strict=True):
        assert one.tolist() == sorted((99 - other).tolist())
    assert first.test.tolist() != list(range(20))


def test_most_rows_stay_where_they_are_when_others_are_added() -> None:
    few, more = (split(digests(range(count)), [0] * count) for count in (1000, 1050))
    stayed = set(few.test.tolist()) & set(more.test.tolist())
    assert len(stayed) >= 0.9 * len(few.test)


def test_a_class_of_few_different_rows_is_learned_from_first() -> None:
    keys = ["a", "a", "a", "b", "b", "c", *range(6)]
    classes = [0, 0, 0, 1, 1, 1, *[2] * 6]
    parts = split(digests(keys), classes)
    assert [sorted({classes[row] for row in part}) for part in parts] == [[0, 1, 2], [2], [1, 2]]


def test_too_few_different_rows_are_refused() -> None:
    with pytest.raises(DataError, match="30 rows are copies of 2, which are too few"):
        split(digests([0, 1] * 15), [0, 1] * 15)


def test_without_test_rows_there_are_none() -> None:
    parts = split(digests(range(50)), [0] * 50, test=0)
    assert [len(part) for part in parts] == [42, 8, 0]
    parts = split(digests(range(50)), [0] * 50, test=0, validation=0)
    assert [len(part) for part in parts] == [50, 0, 0]


@given(
    keys=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    classes=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_copies_are_never_in_two_parts(keys: list[int], classes: int) -> None:
    strata = [key % classes for key in keys]
    try:
        parts = split(digests(keys), strata)
    except DataError:
        assert len(set(keys)) < 3 * classes
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(keys)))
    held = [{keys[row] for row in part.tolist()} for part in parts]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    # Whatever there is, something is learned from.
    assert {strata[row] for row in parts.train} == set(strata)
