"""Tables of one's own: what is learned from, what is left out, and what is told of either."""

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from forwardpass.trainer.data import columns
from forwardpass.trainer.data.columns import TableData
from forwardpass.trainer.errors import DataError, SettingError, UnknownNameError

ROWS = 60
DRAWS = random.Random(0)
SIZE = [f"{DRAWS.uniform(1, 9):.2f}" for _ in range(ROWS)]
COLOUR = [DRAWS.choice(["red", "green", "blue"]) for _ in range(ROWS)]
KIND = ["big" if float(size) > 5 else "small" for size in SIZE]
RARE = "left out: 1 row of the class {!r}, which rows.csv has in {}, of 3 that it takes, line {}"
PLAIN: dict[str, Sequence[object]] = {"size": SIZE, "colour": COLOUR, "kind": KIND}


def write(path: Path, table: Mapping[str, Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def load(
    folder: Path, more: Mapping[str, Sequence[object]], target: str = "kind", **how: object
) -> TableData:
    file = write(folder / "rows.csv", {**PLAIN, **more})
    return columns.load(file, target, **how)  # type: ignore[arg-type] # as a test names it


def dropped(data: TableData) -> dict[str, str]:
    """Returns why each column is left out that is."""
    return {item.column: item.why for item in data.left_out.items if item.what == "column"}


def test_numbers_and_categories_are_columns_of_their_own(tmp_path: Path) -> None:
    data = load(tmp_path, {})
    assert (data.labels, data.why) == (("big", "small"), "its values are texts")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [39, 9, 12]
    assert {name: array.dtype for name, array in data.train.columns.items()} == {
        "size": np.float32,
        "colour": object,
    }
    assert data.train.columns["size"].shape == (39, 1)
    big = data.test.columns["size"][:, 0] > 5
    np.testing.assert_array_equal(np.where(big, 0, 1), data.test.targets)
    assert not data.left_out


def test_a_gap_is_nan_or_an_empty_text(tmp_path: Path) -> None:
    size, colour = ["NA", "", *SIZE[2:]], ["", "n/a", *COLOUR[2:]]
    data = load(tmp_path, {"size": size, "colour": colour})
    parts = (data.train, data.validation, data.test)
    assert sum(int(np.isnan(part.columns["size"]).sum()) for part in parts) == 2
    assert sum(int((part.columns["colour"] == "").sum()) for part in parts) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([""] * ROWS, "always empty"),
        (["x"] * ROWS, "always 'x'"),
        ([*["1"] * 30, *["1.0"] * 30], "always 1"),
        (["inf", *[""] * 59], "always infinite"),
        ([f"2024-03-{day % 28 + 1:02}" for day in range(ROWS)], "dates: give what they tell"),
        ([f"key-{row}" for row in range(ROWS)], "60 different texts in 60 rows, as names, keys"),
        ([f"key-{row // 2}" for row in range(ROWS)][::-1][:50] + ["a"] * 10, ""),
        ([f"{row}.5" if row else "unknown" for row in range(ROWS)], "numbers but for 'unknown' in"),
        ([f"{row} {'kg' if row % 2 else 'g'}" for row in range(ROWS)], "several units: 'g', 'kg'"),
        ([f"1000000000.{row:03}" for row in range(ROWS)], "too near each other for float32"),
        (KIND, "each of its values goes with one of kind, and the other way round: a leak"),
        ([2 * (kind == "big") for kind in KIND], "goes with one of kind"),
        (["" if row < 5 else kind for row, kind in enumerate(KIND)], ""),
    ],
)
def test_a_column_that_tells_nothing_or_all_is_left_out(
    values: Sequence[object], message: str, tmp_path: Path
) -> None:
    data = load(tmp_path, {"more": values})
    assert ("more" in data.train.columns) == (not message)
    assert message in dropped(data).get("more", "")


def test_row_numbers_and_keys_are_left_out_by_what_they_are_called(tmp_path: Path) -> None:
    numbers = list(range(ROWS))
    data = load(tmp_path, {"": numbers, "Customer ID": numbers[::-1], "age": numbers})
    assert [*dropped(data)] == ["column 4", "Customer ID"]
    assert "age" in data.train.columns


def test_a_column_of_numbers_that_is_the_target_in_another_unit_is_left_out(tmp_path: Path) -> None:
    more: dict[str, Sequence[object]] = {
        "fahrenheit": [float(size) * 9 / 5 + 32 for size in SIZE],
        "rounded": [round(float(size)) for size in SIZE],
        "squared": [float(size) ** 2 for size in SIZE],
    }
    data = load(tmp_path, more, target="size")
    assert dropped(data) == {"fahrenheit": "it is size in another unit: a leak"}
    assert (data.labels, data.train.targets.shape) == ((), (len(data.train), 1))


def test_a_code_of_the_target_is_a_leak_whatever_it_is_written_as(tmp_path: Path) -> None:
    grade = [row % 20 + 0.5 for row in range(ROWS)]
    code = [f"code {row % 20}" for row in range(ROWS)]
    data = load(tmp_path, {"grade": grade, "code": code}, target="grade")
    assert data.why == "its values are 20 different numbers"
    assert "goes with one of grade" in dropped(data)["code"]


@pytest.mark.parametrize(
    ("values", "labels", "why"),
    [
        ([row % 3 for row in range(ROWS)], ("0", "1", "2"), "its values are 3 whole numbers"),
        ([row % 11 for row in range(ROWS)], tuple(map(str, range(11))), "11 whole numbers"),
        ([f"{row % 2}.0" for row in range(ROWS)], ("0", "1"), "2 whole numbers"),
        ([row % 3 + 0.5 for row in range(ROWS)], (), "3 different numbers"),
        ([row % 21 for row in range(ROWS)], (), "21 different numbers"),
        (["1,5", "2,5", "3,5"] * 20, (), "3 different numbers"),
        ([row % 2 == 0 for row in range(ROWS)], ("False", "True"), "true and false"),
        (["10 kg", "9 kg", "x"] * 20, ("10 kg", "9 kg", "x"), "its values are texts"),
    ],
)
def test_the_targets_values_tell_what_it_is(
    values: Sequence[object], labels: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    data = load(tmp_path, {"kind": values})
    assert data.labels == labels
    assert why in data.why


def test_the_task_may_be_given(tmp_path: Path) -> None:
    values = [row % 3 for row in range(ROWS)]
    assert load(tmp_path, {"kind": values}, kind="numbers").labels == ()
    halves = [value / 2 for value in values]
    assert load(tmp_path, {"kind": halves}, kind="classes").labels == ("0", "0.5", "1")
    with pytest.raises(DataError, match=r"kind holds what are no numbers.*'big' in line 2"):
        load(tmp_path, {"kind": ["big", *KIND[1:]]}, kind="numbers")


def test_rows_without_a_target_or_of_a_rare_class_are_left_out_and_counted(tmp_path: Path) -> None:
    kinds = ["", "NA", "odd", *KIND[3:]]
    data = load(tmp_path, {"kind": kinds, "same": ["x"] * ROWS})
    assert data.source().left_out == {"column": 1, "row": 3}
    assert data.left_out.notes() == [
        "left out: 2 rows without a kind, lines 2, 3",
        RARE.format("odd", "1 row", 4),
        "left out: same, always 'x'",
    ]
    assert data.left_out.table().decode().splitlines() == [
        "what,column,file,line,why,detail",
        "row,,rows.csv,2,without a kind,",
        "row,,rows.csv,3,without a kind,",
        "row,,rows.csv,4,\"of the class 'odd', which rows.csv has in 1 row, of 3 that it takes\",",
        "column,same,,,always 'x',",
    ]


def test_infinite_numbers_count_as_missing_and_are_listed(tmp_path: Path) -> None:
    data = load(tmp_path, {"size": ["inf", "-1e39", *SIZE[2:]]})
    assert data.left_out.notes() == ["size: 2 fields infinite, counted as missing"]
    assert "field,size,rows.csv,3,infinite" in data.left_out.table().decode()
    infinite = load(tmp_path, {"size": ["inf", *SIZE[1:]]}, target="size")
    assert infinite.left_out.notes() == ["left out: 1 row with an infinite size, line 2"]


def test_great_whole_numbers_are_float64_which_integers_fit_in(tmp_path: Path) -> None:
    people = [16_777_217 + 10**6 * row if row else "" for row in range(ROWS)]
    data = load(tmp_path, {"people": people, "few": range(ROWS)})
    dtypes = {name: array.dtype for name, array in data.train.columns.items()}
    assert (dtypes["people"], dtypes["few"]) == (np.dtype("f8"), np.dtype("f4"))


def test_how_a_column_is_read_is_told(tmp_path: Path) -> None:
    price = [f"$1,{DRAWS.randrange(100, 999)}" for _ in range(ROWS)]
    data = load(tmp_path, {"price": price})
    assert data.left_out.remarks == ["price is read as numbers with thousands separators, in $"]
    assert 1000 < float(data.train.columns["price"][0, 0]) < 2000


@pytest.mark.parametrize(
    ("more", "target", "message"),
    [
        ({"kind": ["big"] * ROWS}, "kind", "kind has one class only, 'big', so there is nothing"),
        ({"kind": ["3.5"] * ROWS}, "kind", "kind is 3.5 in all rows, so there is nothing to tell"),
        ({"kind": [""] * ROWS}, "kind", "no class with enough rows.*60 rows without a kind"),
        (
            {"kind": [f"key {row}" for row in range(ROWS)]},
            "kind",
            "no class with enough rows, so there is nothing to tell",
        ),
        (
            {"kind": [f"2024-03-{day % 28 + 1:02}" for day in range(ROWS)]},
            "kind",
            "kind holds dates; to tell when, give a number",
        ),
        (
            {"kind": [f"{row}.5" if row else "unknown" for row in range(ROWS)]},
            "kind",
            "kind holds numbers, but for 'unknown' in line 2; mend those fields",
        ),
        (
            {"kind": [f"{row} {'kg' if row % 2 else 'g'}" for row in range(ROWS)]},
            "kind",
            "kind holds numbers in several units: 'g', 'kg'; convert them to one",
        ),
        (
            {"kind": [*KIND[:10], *[""] * 50]},
            "kind",
            "has 10 rows to learn kind from, and at least 20 are needed",
        ),
        (
            {"size": KIND, "colour": ["x"] * ROWS},
            "kind",
            "no column of .*can tell kind .*left out: size, each of its.*colour, always 'x'",
        ),
    ],
)
def test_what_nothing_can_be_learned_from_is_told_in_a_line(
    more: Mapping[str, Sequence[object]], target: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as told:
        load(tmp_path, more, target=target)
    assert "\n" not in str(told.value)


def test_a_thousand_different_texts_are_no_classes(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.csv",
        {"size": range(2000), "kind": [f"text {row % 1000}" for row in range(2000)]},
    )
    with pytest.raises(DataError, match="kind has 1,000 different values in 2,000 rows, and at mo"):
        columns.load(file, "kind")


def test_more_columns_than_a_graph_should_have_inputs_are_refused(tmp_path: Path) -> None:
    more = {f"x{place}": [DRAWS.random() for _ in range(ROWS)] for place in range(500)}
    with pytest.raises(DataError, match="has 502 columns to learn from, each of which becomes an"):
        load(tmp_path, more)


def test_a_near_miss_of_the_target_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no column in rows\.csv 'kindd'; did you mean 'ki"):
        load(tmp_path, {}, target="kindd")


def test_equal_rows_are_in_one_split(tmp_path: Path) -> None:
    table = {name: [*values] * 5 for name, values in PLAIN.items()}
    data = columns.load(write(tmp_path / "rows.csv", table), "kind")
    assert data.left_out.remarks[0].startswith("300 rows are copies of 60; copies are in one spl")
    parts = [
        set(zip(*(array[:, 0].tolist() for array in part.columns.values()), strict=True))
        for part in (data.train, data.validation, data.test)
    ]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_test_rows_may_come_in_a_file_of_their_own(tmp_path: Path) -> None:
    half = {name: values[:30] for name, values in PLAIN.items()}
    test = write(tmp_path / "test.csv", dict(reversed(half.items())))
    data = load(tmp_path, {}, test=test)
    assert len(data.test) == 30
    assert len(data.train) + len(data.validation) == 30
    assert data.left_out.notes() == [
        "left out: 30 rows a copy of a test row, lines 2, 3, 4, 5, 6 and 25 more"
    ]


def test_0_and_minus_0_are_copies(tmp_path: Path) -> None:
    size, test = ["0", *SIZE[1:]], {"size": ["-0"], "colour": COLOUR[:1], "kind": KIND[:1]}
    data = load(tmp_path, {"size": size}, test=write(tmp_path / "test.csv", test))
    assert data.left_out.notes() == ["left out: 1 row a copy of a test row, line 2"]


def test_a_class_that_is_in_the_test_rows_alone_is_left_out(tmp_path: Path) -> None:
    table = {"size": ["1.5", "2.5"], "colour": ["red"] * 2, "kind": ["big", "huge"]}
    data = load(tmp_path, {}, test=write(tmp_path / "test.csv", table))
    assert len(data.test) == 1
    assert data.left_out.notes() == [RARE.format("huge", "no row", 3)]


def test_the_data_may_not_be_its_own_test_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", PLAIN)
    with pytest.raises(DataError, match="is a test row, too: none is left to learn from"):
        columns.load(file, "kind", test=file)


def test_a_file_of_test_rows_without_any_that_counts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    table = {"size": ["1.5"], "colour": ["red"], "kind": [""]}
    test = write(tmp_path / "test" / "rows.csv", table)
    with pytest.raises(
        DataError, match=r"has no row to measure on .*2 rows without a kind, lines 2, 2"
    ):
        load(tmp_path, {"kind": ["", *KIND[1:]]}, test=test)


def test_test_rows_of_other_columns_are_refused(tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", {"size": ["1"], "hue": ["red"], "kind": ["big"]})
    with pytest.raises(
        DataError, match=r"test\.csv has other.*it lacks 'colour' and has bes.*'hue"
    ):
        load(tmp_path, {}, test=test)


def test_the_digest_is_of_all_that_is_learned_from(tmp_path: Path) -> None:
    digests = {
        load(tmp_path, more).digest()
        for more in (
            {},
            {"colour": ["pink", *COLOUR[1:]]},
            {"kind": [kind.upper() for kind in KIND]},
            {"hue": COLOUR},
        )
    }
    assert len(digests) == 4
    assert load(tmp_path, {}).digest() in digests


def test_a_limit_takes_rows_from_all_over_a_sorted_file(tmp_path: Path) -> None:
    data = load(tmp_path, {"kind": sorted(KIND)})
    assert data.limited(0) is data
    limited = data.limited(4)
    assert [len(part) for part in (limited.train, limited.validation, limited.test)] == [4, 4, 4]
    assert sorted(set(limited.train.targets.tolist())) == [0, 1]
    with pytest.raises(SettingError, match="limit=1 leaves nothing to tell apart; give a greater"):
        data.limited(1)
