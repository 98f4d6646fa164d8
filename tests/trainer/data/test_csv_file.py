"""CSV files of others: encodings, separators, quotes, and what is wrong with them."""

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwardpass.trainer.data import csv_file
from forwardpass.trainer.errors import DataError, UnknownNameError

TEXT = "name;größe\nJosé;1,5\nŁukasz;2,5\n"
COLUMNS = {"name": ["José", "Łukasz"], "größe": ["1,5", "2,5"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def read(file: Path, content: str | bytes) -> csv_file.Table:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return csv_file.read(file)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_a_file_may_be_in_any_unicode_encoding(encoding: str, file: Path) -> None:
    table = read(file, TEXT.encode(encoding))
    assert table.columns == COLUMNS
    assert (table.encoding, table.separator) == (encoding, ";")


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "naïve € “x”"), ("latin-1", "naïve \x81")]
)
def test_what_is_no_unicode_is_read_as_windows_or_latin_1(
    encoding: str, text: str, file: Path
) -> None:
    table = read(file, f"a,b\n1,{text}\n".encode(encoding))
    assert table.columns == {"a": ["1"], "b": [text]}
    assert table.encoding == encoding


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_told_by_the_rows(separator: str, file: Path) -> None:
    rows = [["a", "b", "c"], ["1,5", "x", "at 3;4"], ["2,5", "y|z", "tab\there"]]
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=separator).writerows(rows)
    table = csv_file.read(file)
    assert table.separator == separator
    assert [*table.columns] == rows[0]
    assert list(zip(*table.columns.values(), strict=True)) == [tuple(row) for row in rows[1:]]


def test_texts_with_more_commas_than_there_are_columns_mislead_nobody(file: Path) -> None:
    table = read(file, "text;label\na, b, c;1\nd, e, f;2\n")
    assert table.columns == {"text": ["a, b, c", "d, e, f"], "label": ["1", "2"]}


def test_excels_own_line_states_the_separator(file: Path) -> None:
    table = read(file, "sep=|\r\na;b|c;d\r\n1|2\r\n")
    assert table.columns == {"a;b": ["1"], "c;d": ["2"]}
    assert table.lines == [3]


def test_quotes_hold_separators_quotes_and_new_lines(file: Path) -> None:
    table = read(file, '\n"a, b",c\r\n"one\r\ntwo, ""three""",x\n\n   \n"",y\r\n\n')
    assert table.columns == {"a, b": ['one\r\ntwo, "three"', ""], "c": ["x", "y"]}
    assert table.lines == [3, 7]


def test_a_text_may_be_longer_than_csv_allows_by_itself(file: Path) -> None:
    before, text = csv.field_size_limit(), "long; " * 50_000
    assert read(file, f"text,label\n{text},a\nshort,b\n").column("text") == [text, "short"]
    assert csv.field_size_limit() == before


def test_columns_without_a_heading_have_their_places_names(file: Path) -> None:
    table = read(file, ", a ,\n0,x,\n1,y,\n")
    assert table.columns == {"column 1": ["0", "1"], "a": ["x", "y"], "column 3": ["", ""]}


def test_where_there_is_one_column_a_blank_line_between_is_a_field(file: Path) -> None:
    table = read(file, "value\n1\n\n3\n\n\n")
    assert table.columns == {"value": ["1", "", "3"]}
    assert table.lines == [2, 3, 4]


def test_a_column_that_there_is_not_is_answered_with_the_nearest(file: Path) -> None:
    table = read(file, "species,mass\nAdelie,3.7\n")
    with pytest.raises(UnknownNameError, match=r"no column in rows\.csv 'Specis'; did you mean 's"):
        table.column("Specis")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; give a CSV file"),
        ("\n \n", "is empty; give a CSV file"),
        ("a,b\n\n", r"has headings \('a', 'b'\) and no rows below"),
        ("a,b\n1,2\n1\n1,2,3\n", "has 2 headings, and lines 3, 4 have 1 or 3 fields"),
        ("a,b\n1,2\n1,2,3\n", "has 2 headings, and line 3 has 3 fields"),
        ("a,b\n" + "1\n" * 9, "lines 2, 3, 4, 5, 6 and 4 more have 1 fields"),
        ("a,b, a\n1,2,3\n", "more than one column called 'a'; rename all but one"),
        ('a,b\n1,2\n"1,2\n3,4\n', "the row that begins in line 3: unexpected end of data"),
        ('a,b\n1,2\n"1"x,2\n', "the row that begins in line 3: ',' expected after"),
        (b"a,b\n1,\0\n", "is no text in utf-8; save it as CSV"),
        (b"\xff\xfea", "is no text in utf-16; save it as CSV"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "is compressed by gzip; save it as CSV"),
        (b"PK\x03\x04rest", "is a zip archive, such as an Excel workbook"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(content: str | bytes, message: str, file: Path) -> None:
    with pytest.raises(DataError, match=message) as told:
        read(file, content)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_or_too_large_is_told(file: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*rows\.csv"):
        csv_file.read(file)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        csv_file.read(file.parent)
    with file.open("wb") as opened:
        opened.truncate(csv_file.MAX_BYTES + 1)  # which takes no place on the disk
    with pytest.raises(DataError, match="has 268,435,457 bytes, and at most 268,435,456 are read"):
        csv_file.read(file)


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
SOME_ROWS = st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1, max_size=6)


@given(rows=SOME_ROWS, separator=st.sampled_from(",;\t|"))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_pythons_own_writer_has_written_is_read_as_it_was(
    rows: list[list[str]], separator: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, delimiter=separator)
        writer.writerows([["heading", "other"], *rows])
    read_rows = zip(*csv_file.read(file).columns.values(), strict=True)
    assert [list(row) for row in read_rows] == rows
