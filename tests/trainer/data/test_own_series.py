"""Series of one's own: in order, without gaps, long enough."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from forwardpass.trainer.data import own_series
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.errors import DataError, UnknownNameError

VALUES = [round(10 + 3 * math.sin(row / 2), 2) for row in range(84)]


def load(
    folder: Path,
    values: Sequence[object] = VALUES,
    times: Sequence[object] = (),
    season: int = 0,
) -> Series:
    file = folder / "series.csv"
    lines = zip(times or range(len(values)), values, strict=True)
    file.write_text("t;v\n" + "".join(f"{time};{value}\n" for time, value in lines))
    return own_series.load(file, "v", "t" if times else "", season)


def test_a_seventh_is_chosen_by_and_a_seventh_measured_on(tmp_path: Path) -> None:
    series = load(tmp_path)
    np.testing.assert_allclose(series.values, VALUES, rtol=1e-6)
    assert (series.validation, series.test, len(series.train)) == (12, 12, 60)
    assert (series.clock, series.years[0], series.season) == ("value", 1, 0)
    assert series.source().origin == "series.csv"
    assert len(series.marks()) == 8
    assert not series.left_out


def test_at_least_a_season_is_measured_on(tmp_path: Path) -> None:
    assert load(tmp_path, season=14).test == 14
    assert load(tmp_path, season=3).test == 12


@pytest.mark.parametrize(
    "times",
    [
        [f"{1990 + row // 12}-{row % 12 + 1:02}" for row in range(84)],
        [f"{row % 12 + 1}/28/{1990 + row // 12}" for row in range(84)],
        [f"28/{row % 12 + 1}/{1990 + row // 12} 10:30" for row in range(84)],
        [f"1.{row % 12 + 1}.{1990 + row // 12}" for row in range(84)],
        [f"{1990 + row // 12}-{row % 12 + 1:02}-05T10:00:00Z" for row in range(84)],
    ],
)
def test_dates_put_rows_in_order(times: list[str], tmp_path: Path) -> None:
    series = load(tmp_path, VALUES[::-1], times[::-1])
    np.testing.assert_allclose(series.values, VALUES, rtol=1e-6)
    assert series.clock == "year"
    np.testing.assert_allclose(series.years[[0, -1]], [1990, 1997], atol=0.1)
    assert series.left_out.remarks == ["rows are not in the order of t, and are put into it"]


def test_numbers_may_be_times(tmp_path: Path) -> None:
    series = load(tmp_path, times=[f"{row},5" for row in range(84)])
    assert (series.clock, series.years[0]) == ("t", 0.5)
    assert not series.left_out.remarks


def test_gaps_in_time_are_remarked(tmp_path: Path) -> None:
    times = [f"{2000 + row // 12}-{row % 12 + 1:02}" for row in range(90)]
    del times[20:26]
    remarks = load(tmp_path, times=times).left_out.remarks
    assert remarks == ["t has a gap, behind line 21; values are taken for equally distant"]


def test_empty_ends_are_cut_off_and_counted(tmp_path: Path) -> None:
    series = load(tmp_path, ["", *VALUES, "NA", ""])
    assert len(series.values) == 84
    assert series.left_out.notes() == ["left out: 3 rows without a v, at an end, lines 2, 87, 88"]


@pytest.mark.parametrize(
    ("values", "times", "message"),
    [
        ([*VALUES[:9], "", *VALUES[10:]], (), "v has gaps: '' in line 11; a series has a number"),
        ([*VALUES[:9], "x", *VALUES[10:]], (), "v holds what is no number: 'x' in line 11"),
        ([*VALUES[:9], "inf", *VALUES[10:]], (), "v holds infinite numbers: 'inf' in line 11"),
        ([f"{value} {'kg' if value > 9 else 'g'}" for value in VALUES], (), "in several units"),
        ([""] * 84, (), "v is always empty"),
        ([7] * 84, (), r"the values of .*series\.csv are all 7: there is nothing to forecast"),
        (VALUES[:59], (), "a series of 59 values, and at least 60 are needed"),
        (VALUES, [*range(83), "soon"], "t holds what is no time: 'soon' in line 85; write num"),
        (VALUES, [f"1/2/{1900 + row}" for row in range(84)], "no time: '1/2/1900' in line 2, "),
        (VALUES, [*range(83), 80], "t has a time more than once: '80' in line 85; a series has"),
        (VALUES, [*range(83), ""], "t holds what is no time: '' in line 85"),
    ],
)
def test_what_is_no_series_is_told_in_a_line(
    values: Sequence[object], times: Sequence[object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as told:
        load(tmp_path, values, times)
    assert "\n" not in str(told.value)


def test_a_season_needs_six_of_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="84 values, and at least 90, 6 seasons of 15, are needed"):
        load(tmp_path, season=15)


def test_a_column_that_there_is_not_is_answered_with_the_nearest(tmp_path: Path) -> None:
    load(tmp_path)
    for value, time in (("w", ""), ("v", "time")):
        with pytest.raises(UnknownNameError, match=r"no column in series\.csv"):
            own_series.load(tmp_path / "series.csv", value, time)
