"""Counts: reading one is not counting."""

from forwardpass.server.metrics.numbers import Count


def test_to_read_a_count_is_not_to_count() -> None:
    count = Count()
    for expected in (0, 1, 2, 3):
        assert [count.value, count.value] == [expected, expected]
        count.add()
