"""What the fields of a column are read as."""

import math

import numpy as np
import pytest

from forwardpass.trainer.data.fields import are_dates, decimal_mark, is_missing, read_numbers

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("fields", "values", "style"),
    [
        (["1", " 2.5 ", "-3e5", "+4", ".5", "5."], [1, 2.5, -3e5, 4, 0.5, 5], ""),
        (["1", "NA", "n/a", "", "?", "-", "None"], [1] + [NAN] * 6, ""),
        (["inf", "-Infinity", "∞", "1e999"], [INF, -INF, INF, INF], ""),
        (["1,234", "2,500.75", "7"], [1234, 2500.75, 7], "with thousands separators"),
        (["1,234", "12,500"], [1234, 12500], "with thousands separators"),
        (["1.234.567", "1"], [1234567, 1], "with thousands separators"),
        (["1'234.5", "2\u202f000", "\u22123"], [1234.5, 2000, -3], "with thousands separators"),
        (["1.234,5", "2"], [1234.5, 2], "with thousands separators, with decimal commas"),
        (["1,5", "2,25"], [1.5, 2.25], "with decimal commas"),
        (["12 kg", "3kg"], [12, 3], "in kg"),
        (["$1,234.50", "-$3"], [1234.5, -3], "with thousands separators, in $"),
        (["5 %", "7.5%"], [5, 7.5], "in %"),
        (["true", "FALSE", ""], [1, 0, NAN], ""),
    ],
)
def test_numbers_are_read_as_people_write_them(
    fields: list[str], values: list[float], style: str
) -> None:
    numbers = read_numbers(fields, decimal_mark([fields], ","))
    np.testing.assert_array_equal(numbers.values, values)
    assert (numbers.plain, numbers.style) == (True, style)


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        (["1", "unknown", "3"], [1]),
        (["12 Main Street", "3 Oak Lane"], [0, 1]),
        (["1_000", "1-2", "1e", "e5", "A1", "1.2.3"], [0, 1, 3, 4, 5]),
        (["yes", "no"], [0, 1]),
    ],
)
def test_other_fields_are_texts(fields: list[str], texts: list[int]) -> None:
    numbers = read_numbers(fields, ".")
    assert numbers.texts == texts
    assert not numbers.plain


def test_numbers_in_two_units_are_no_plain_numbers() -> None:
    numbers = read_numbers(["1 kg", "20 g", "3"], ".")
    assert set(numbers.units) == {"kg", "g", ""}
    assert not numbers.plain


def test_what_is_before_decimals_is_told_by_the_other_columns() -> None:
    either = ["1,234", "2,500"]
    assert decimal_mark([either], ",") == "."
    assert decimal_mark([either, ["1,5"]], ",") == ","
    assert decimal_mark([either], ";") == ","
    assert decimal_mark([either, ["1.5", "2.25"]], ";") == "."
    assert decimal_mark([["a, b", "1,5 or so"]], ",") == "."


def test_dates_and_times_are_told() -> None:
    for field in (
        "2012/01/31",
        "2024-03-01T10:00:00Z",
        "2024-03",
        "1.2.2024",
        "3/14/24",
        "March 5, 2024",
        "5 Apr 2024",
        "12-Mar-24",
        "10:30",
    ):
        assert are_dates([field, "NA"]), field
    for field in ("may", "maybe 3", "1.2.3", "12", "A-2024-01", ""):
        assert not are_dates([field]), field


def test_none_is_a_word_among_words() -> None:
    assert not is_missing("None")
    assert all(map(is_missing, ["", "  ", "NA", "NaN", "null"]))
