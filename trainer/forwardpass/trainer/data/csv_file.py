"""CSV files as people have them: any usual encoding and separator, every field as its text.

    table = csv_file.read(Path("penguins.csv"))
    table.column("species")  # a text for each row
    table.lines              # the line of the file that each row begins in

What fields mean is for the caller to say: nothing is guessed or left out here, and a row with a
field too many or too few is refused, since all that follows in it would be in the wrong column.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from forwardpass.trainer.errors import DataError, UnknownNameError

# All of a file is held in memory as texts, at some ten times its size.
MAX_BYTES = 256 << 20

_BOMS = (
    # That of UTF-32 begins as that of UTF-16 does.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive, such as an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"PAR1\x15", "a Parquet file"),
)
_SEPARATORS = ",;\t|"
# Excel's way of stating the separator in a line of its own.
_STATED = re.compile(r'"?sep=(.)"?\r?\n')
# The share of a text that may be NUL; e-mails have some, what is no text has many.
_NULS = 0.001
# Records that the separator is told by.
_PROBED = 200
# Lines that an error names.
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV file.

    Attributes:
        path: Where it lies.
        encoding: As Python names it, such as "utf-8" or "cp1252".
        separator: What stands between fields.
        lines: In which line of the file each row begins, from 1 (rows).
        columns: The fields of each column as they are written, by heading (rows). A column without
            a heading is called "column 3" by its place.
    """

    path: Path
    encoding: str
    separator: str
    lines: Sequence[int]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[str]:
        """Returns the fields of a column.

        Raises:
            UnknownNameError: There is no such column; the message has the nearest, and all.
        """
        if name not in self.columns:
            raise UnknownNameError(f"column in {self.path.name}", name, self.columns)
        return self.columns[name]


def read(path: Path) -> Table:
    """Returns the rows below the headings. Blank lines do not count.

    Args:
        path: A text in UTF-8, UTF-16, UTF-32 or cp1252 (or Latin-1), with commas, semicolons, tabs
            or bars between fields, and double quotes around those that hold such.

    Raises:
        DataError: There is no such file, it is no CSV file, or too large, it has no rows, two
            columns have one name, or rows have other numbers of fields than there are headings.
    """
    content = _content(path)
    encoding = _encoding(path, content)
    text = content.decode(encoding)
    stated = _STATED.match(text)
    with _fields_of_any_length():
        separator = stated[1] if stated else _separator(text)
        records = _records(path, text, separator)
        if stated:
            next(records)
        headings = next((fields for _, fields in records if any(map(str.strip, fields))), None)
        if headings is None:
            raise DataError(f"{path} is empty; give a CSV file: headings, and rows below")
        rows = list(_rows(records, len(headings)))
    if not rows:
        raise DataError(f"{path} has headings ({some(headings)}) and no rows below")
    _check_widths(path, rows, len(headings))
    return Table(
        path=path,
        encoding=encoding,
        separator=separator,
        lines=[line for line, _ in rows],
        columns=dict(
            zip(
                _names(path, headings),
                map(list, zip(*(fields for _, fields in rows), strict=True)),
                strict=True,
            )
        ),
    )


def named_lines(lines: Sequence[int]) -> str:
    """Returns lines as an error names them: "line 7", or "lines 7, 9, 12 and 3 more"."""
    first = ", ".join(map(str, lines[:_NAMED]))
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return f"line{'s' if len(lines) > 1 else ''} {first}{more}"


def some(names: Sequence[str]) -> str:
    """Returns names as an error has them: "'a', 'b' and 7 more"."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes, and at most {MAX_BYTES:,} are read; "
                "give a part of its rows"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    for start, kind in _OTHER_KINDS:
        if content.startswith(start):
            raise DataError(f"{path} is {kind}; save it as CSV, as plain text")
    return content


def _encoding(path: Path, content: bytes) -> str:
    """Returns the first encoding that the bytes are text in."""
    encodings = [name for bom, name in _BOMS if content.startswith(bom)][:1]
    if not encodings:
        # UTF-16 has a zero in every second byte of what is ASCII.
        low, high = content[1::2].count(0), content[::2].count(0)
        if max(low, high) > len(content) / 4:
            encodings = ["utf-16-le" if low > high else "utf-16-be"]
        else:
            encodings = ["utf-8", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
            if text.count("\0") <= len(text) * _NULS:
                return encoding
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path} is no text in {encodings[0]}; save it as CSV, in UTF-8")


def _separator(text: str) -> str:
    """Returns what divides the first records most evenly; a comma where nothing does."""
    best, found = (0.0, 0), ","
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            widths = [len(fields) for fields in islice(filter(None, reader), _PROBED)]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            score = (widths.count(widths[0]) / len(widths), widths[0])
            if score > best:
                best, found = score, separator
    return found


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line that each record begins in, and its fields; none for a blank line.

    Raises:
        DataError: A quote is not closed, or text follows one that is.
    """
    # `strict`, or a quote that is never closed would swallow all rows that follow.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, the row that begins in line {line}: {error}. A field with a quote in it is "
            'written with quotes around it, and that one doubled: "a 3"" nail"'
        ) from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lifts csv's limit of 128 KiB, which is one for all of Python, so it is set back."""
    limit = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _rows(records: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Yields what is no blank line; where there is one column, a blank line between is a field."""
    blank: list[int] = []
    for line, fields in records:
        if len(fields) < 2 and not any(map(str.strip, fields)):
            blank.append(line)
            continue
        if width == 1:
            yield from ((empty, [""]) for empty in blank)
        blank.clear()
        yield line, fields


def _check_widths(path: Path, rows: Sequence[tuple[int, list[str]]], width: int) -> None:
    ragged = [(line, len(fields)) for line, fields in rows if len(fields) != width]
    if not ragged:
        return
    lines, counts = zip(*ragged, strict=True)
    verb = "has" if len(lines) == 1 else "have"
    found = " or ".join(map(str, sorted(set(counts))[:_NAMED]))
    raise DataError(
        f"{path} has {width} headings, and {named_lines(lines)} {verb} {found} fields; a field "
        "that holds a separator needs double quotes around it"
    )


def _names(path: Path, headings: Sequence[str]) -> list[str]:
    names = [
        heading.strip() or f"column {place}" for place, heading in enumerate(headings, start=1)
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has more than one column called {some(twice)}; rename all but one")
    return names
