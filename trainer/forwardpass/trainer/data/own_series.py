"""A series of one's own, from a column of a CSV file, in the order of another or of its rows."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.data.csv_file import named_lines
from forwardpass.trainer.data.fields import is_missing, read_numbers
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.trainer.data.own_rows import OwnRows, fields_named, read_rows
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.errors import DataError

# Less is too little to learn from, choose by and measure on.
MIN_VALUES, MIN_SEASONS = 60, 6
MAX_VALUES = 200_000
# Of the values, to choose by, and as many to measure on; at least a season.
_HELD_OUT = 1 / 7
# A step so much longer than the usual one is a gap; a month may have 28 days, or 31.
_GAP = 1.5
_YEAR = 365.2425 * 24 * 3600
_YEAR_FIRST = re.compile(r"(\d{4})[-/.](\d{1,2})(?:[-/.](\d{1,2})(?:[T ](.+))?)?")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})[-/.](\d{4})(?:[T ](.+))?")


def load(file: Path, value: str, time: str = "", season: int = 0) -> Series:
    """Returns a column's values in the order of time; a seventh is to choose by, and one to test.

    Args:
        file: The CSV file.
        value: The column of the values.
        time: The column of when each was measured, numbers or dates; empty where rows are in order.
        season: After how many values the series does much the same again; 0 for never.

    Raises:
        UnknownNameError: There is no such column.
        DataError: The file cannot be read, values are missing, times are no times, or come twice,
            or there are too few values.
    """
    left_out = LeftOut()
    rows = read_rows(file, None, left_out)
    given = [row for row, field in enumerate(rows.column(value)) if not is_missing(field)]
    if not given:
        raise DataError(f"{value} is always empty")
    ends = [*range(given[0]), *range(given[-1] + 1, len(rows))]
    left_out.leave_rows((rows.places[row] for row in ends), f"without a {value}, at an end")
    rows = rows.take(list(range(given[0], given[-1] + 1)))
    values = _read_values(rows, value, left_out)
    clock, years = "value", np.arange(1, len(rows) + 1, dtype=np.float64)
    if time:
        clock, years = _read_times(rows, time)
        order = np.argsort(years, kind="stable")
        _check_times(rows, time, years, order, left_out)
        values, years = values[order], years[order]
    _check_length(file, values, season)
    held_out = max(season, math.ceil(len(values) * _HELD_OUT))
    return Series(
        name=file.stem,
        origin=file.name,
        license="",
        years=years.astype(np.float32),
        values=values,
        season=season,
        ticks=0,
        validation=held_out,
        test=held_out,
        clock=clock,
        left_out=left_out,
    )


def _read_values(rows: OwnRows, name: str, left_out: LeftOut) -> NDArray[np.float32]:
    fields = rows.column(name)
    numbers = read_numbers(fields, rows.decimal)
    if numbers.style:
        left_out.remarks.append(f"{name} is read as numbers {numbers.style}")
    with np.errstate(over="ignore"):
        values = numbers.values.astype(np.float32)
    gaps = np.flatnonzero(np.isnan(values) & ~np.isin(np.arange(len(values)), numbers.texts))
    infinite = np.flatnonzero(np.isinf(values))
    for at, wrong in (
        (list(numbers.texts), "holds what is no number"),
        (gaps.tolist(), "has gaps"),
        (infinite.tolist(), "holds infinite numbers"),
    ):
        if at:
            raise DataError(
                f"{name} {wrong}: {fields_named(fields, rows, at)}; a series has a number at each "
                "place, so fill them in, such as by the mean of their neighbours, or give the part "
                "before or after"
            )
    if len(numbers.units) > 1:
        units = ", ".join(map(repr, sorted(numbers.units)))
        raise DataError(f"{name} has numbers in several units: {units}; convert them to one")
    return values


def _read_times(rows: OwnRows, name: str) -> tuple[str, NDArray[np.float64]]:
    """Returns what the times count, and the times: numbers as they are, dates as years."""
    fields = rows.column(name)
    numbers = read_numbers(fields, rows.decimal)
    no_numbers = np.flatnonzero(~np.isfinite(numbers.values)).tolist()
    if not no_numbers:
        return name, numbers.values
    months_first = _months_first(fields)
    seconds = [_seconds(field.strip(), months_first=months_first) for field in fields]
    no_dates = [row for row, each in enumerate(seconds) if each is None]
    if no_dates:
        wrong = min(no_numbers, no_dates, key=len)
        raise DataError(
            f"{name} holds what is no time: {fields_named(fields, rows, wrong)}; write numbers, or "
            "dates as 2024-03-01"
        )
    return "year", 1970 + np.array(seconds, np.float64) / _YEAR


def _months_first(fields: Sequence[str]) -> bool | None:
    """Whether 3/1/2024 is in March; None where the dates may be read either way."""
    dates = [found for field in fields if (found := _YEAR_LAST.fullmatch(field.strip()))]
    if any(int(date[1]) > 12 or date[2] == "." for date in dates):
        return False
    return True if any(int(date[3]) > 12 for date in dates) else None


def _seconds(text: str, *, months_first: bool | None) -> float | None:
    """Returns a date's distance from 1970; None for what is no date, or may be two."""
    if found := _YEAR_FIRST.fullmatch(text):
        year, month, day, hours = found[1], found[2], found[3] or "1", found[4]
    elif (found := _YEAR_LAST.fullmatch(text)) and months_first is not None:
        year, hours = found[4], found[5]
        month, day = (found[1], found[3]) if months_first else (found[3], found[1])
    else:
        return None
    try:
        moment = datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}T{hours or '00:00'}")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _check_times(
    rows: OwnRows,
    name: str,
    times: NDArray[np.float64],
    order: NDArray[np.int64],
    left_out: LeftOut,
) -> None:
    """Refuses a time that comes twice; remarks that rows are put in order, and gaps."""
    steps = np.diff(times[order])
    twice = order[1:][steps == 0]
    if len(twice):
        raise DataError(
            f"{name} has a time more than once: "
            f"{fields_named(rows.column(name), rows, sorted(twice.tolist()))}; a series has one "
            "value at a time, so give one series, or the sum or mean of several"
        )
    if (order != np.arange(len(order))).any():
        left_out.remarks.append(f"rows are not in the order of {name}, and are put into it")
    behind = order[:-1][steps > _GAP * np.median(steps)] if len(steps) else order[:0]
    if len(behind):
        lines = named_lines([rows.places[row].line for row in sorted(behind.tolist())])
        gaps = "a gap" if len(behind) == 1 else f"{len(behind):,} gaps"
        left_out.remarks.append(
            f"{name} has {gaps}, behind {lines}; values are taken for equally distant"
        )


def _check_length(file: Path, values: NDArray[np.float32], season: int) -> None:
    least = max(MIN_VALUES, MIN_SEASONS * season)
    if len(values) < least:
        seasons = f", {MIN_SEASONS} seasons of {season}," if season else ""
        raise DataError(
            f"{file} has a series of {len(values)} values, and at least {least}{seasons} are needed"
        )
    if len(values) > MAX_VALUES:
        raise DataError(
            f"{file} has a series of {len(values):,} values, and at most {MAX_VALUES:,} are taken; "
            "give the last ones, or means of several"
        )
    held_out = max(season, math.ceil(len(values) * _HELD_OUT))
    if np.ptp(values[: -2 * held_out]) == 0:
        raise DataError(f"the values of {file} are all {values[0]:g}: there is nothing to forecast")
