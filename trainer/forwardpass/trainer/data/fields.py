"""What the fields of a column mean: numbers as people write them, dates, booleans, or nothing."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mark = Literal[".", ","]

# What stands where a value is missing, in lower case.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null"})
# Among numbers these are not words of their own.
_NO_NUMBER = _MISSING | {"-", "--", "?", ".", "nil", "none"}
_INFINITE = {"inf": math.inf, "infinity": math.inf, "∞": math.inf}
_BOOLEANS = {"true": 1.0, "false": 0.0}
# Between groups of three digits, beside the mark that is not the decimal one. The spaces are a
# space, one that does not break, and a narrow one; the quotes are Switzerland's.
_GROUPS = " \u00a0\u202f'\u2019"
_CURRENCIES = "$€£¥₹"
_MONTH = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}(?:[-/.]\d{1,2})?(?:[T ]\d{1,2}:\d{2}.*)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?:[T ]\d{1,2}:\d{2}.*)?"
    r"|\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[ap]m)?"
    rf"|(?=.*\d).{{0,12}}\b(?:{_MONTH})\b.{{0,20}}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A column's fields, read as numbers.

    Attributes:
        values: NaN where a value is missing, and where the field is no number (rows).
        texts: The rows whose fields are neither numbers nor missing.
        units: What stands before or behind the numbers, such as "kg" or "$"; "" for nothing.
        style: In what way they are not written as Python writes them, for people; "" where in none.
        booleans: Whether the fields are true and false, which are 1 and 0.
    """

    values: NDArray[np.float64]
    texts: Sequence[int]
    units: frozenset[str]
    style: str
    booleans: bool = False

    @property
    def plain(self) -> bool:
        """Whether all that is given are numbers of one unit."""
        return not self.texts and len(self.units) == 1


@dataclass(frozen=True, slots=True)
class _Number:
    value: float
    unit: str = ""
    grouped: bool = False
    comma: bool = False


def is_missing(field: str) -> bool:
    """Whether a field says that there is no value: it is empty, or such as "NA" or "n/a"."""
    return field.strip().lower() in _MISSING


def are_dates(fields: Iterable[str]) -> bool:
    """Whether all fields that are not missing are dates or times, and there are some."""
    given = [field.strip() for field in set(fields) if not is_missing(field)]
    return bool(given) and all(_DATE.fullmatch(field) for field in given)


def decimal_mark(columns: Iterable[Sequence[str]], separator: str) -> Mark:
    """Returns what stands before decimals in a file.

    "1,234" may be either, so other numbers tell: 1,5 and 1.234,5 have a comma, 1.5 and 1,234.5 a
    point. Where none does it is a comma if fields are separated by semicolons, which is why they
    are.

    Args:
        columns: The file's fields, by column.
        separator: What stands between fields.
    """
    votes = {".": 0, ",": 0}
    for fields in columns:
        given = {field for field in map(str.strip, fields) if field.lower() not in _NO_NUMBER}
        if given and all(re.fullmatch(rf"[+-]?[\d.,{_GROUPS}]+", field) for field in given):
            for mark in votes:
                other = re.escape("," if mark == "." else ".")
                # Not three digits, or behind a group of three.
                plain = re.compile(rf".*(?:\{mark}(?!\d{{3}}$)\d*|{other}\d{{3}}\{mark}\d*)")
                votes[mark] += any(plain.fullmatch(field) for field in given)
    if votes[","] == votes["."]:
        return "," if separator == ";" and not votes["."] else "."
    return "," if votes[","] > votes["."] else "."


def read_numbers(fields: Sequence[str], decimal: Mark) -> Numbers:
    """Returns a column's numbers.

    Args:
        fields: As they are written.
        decimal: The file's decimal mark; the other is tried where some are no numbers with it.
    """
    words = {field: field.strip().lower() for field in set(fields)}
    given = {word for word in words.values() if word not in _MISSING}
    if given and given <= _BOOLEANS.keys():
        values = np.array([_BOOLEANS.get(words[field], math.nan) for field in fields])
        return Numbers(values=values, texts=[], units=frozenset([""]), style="", booleans=True)
    attempts = [_read(fields, decimal)]
    if attempts[0].texts:
        attempts.append(_read(fields, "," if decimal == "." else "."))
    return min(attempts, key=lambda attempt: len(attempt.texts))


def _read(fields: Sequence[str], decimal: Mark) -> Numbers:
    pattern = _pattern(decimal)
    read = {field: _read_one(field, decimal, pattern) for field in set(fields)}
    numbers = [each for each in read.values() if each is not None and not math.isnan(each.value)]
    units = frozenset(number.unit for number in numbers)
    style = [
        *(["with thousands separators"] if any(number.grouped for number in numbers) else []),
        *(["with decimal commas"] if any(number.comma for number in numbers) else []),
        *(f"in {unit}" for unit in sorted(units - {""})),
    ]
    return Numbers(
        values=np.array([_value(read[field]) for field in fields], np.float64),
        texts=[row for row, field in enumerate(fields) if read[field] is None],
        units=units,
        style=", ".join(style),
    )


def _value(number: _Number | None) -> float:
    return math.nan if number is None else number.value


def _pattern(decimal: Mark) -> re.Pattern[str]:
    groups = f"[{',' if decimal == '.' else '.'}{_GROUPS}]"
    return re.compile(
        rf"(?P<sign>[+\-\u2212]?)(?P<before>[{_CURRENCIES}]?) ?"
        rf"(?P<whole>\d{{1,3}}(?:{groups}\d{{3}})+|\d*)(?P<part>\{decimal}\d*)?"
        r"(?P<power>e[+-]?\d+)? ?(?P<after>(?:[^\W\d_]|[%‰°])[\w%°/²³·^-]{0,11})?",
        re.IGNORECASE,
    )


def _read_one(field: str, decimal: Mark, pattern: re.Pattern[str]) -> _Number | None:
    """Returns what a field says: NaN where a value is missing, None where it is a text."""
    text = field.strip()
    if text.lower() in _NO_NUMBER:
        return _Number(math.nan)
    if (infinite := _INFINITE.get(text.lower().lstrip("+-"))) is not None:
        return _Number(-infinite if text.startswith("-") else infinite)
    found = pattern.fullmatch(text)
    if found is None or not any(map(str.isdecimal, found["whole"] + (found["part"] or ""))):
        return None
    whole = re.sub(r"\D", "", found["whole"])
    part = (found["part"] or "").replace(decimal, ".")
    sign = "-" if found["sign"] in ("-", "\u2212") else ""
    return _Number(
        float(f"{sign}{whole}{part}{found['power'] or ''}"),
        found["before"] or found["after"] or "",
        grouped=whole != found["whole"],
        comma=decimal == "," and "," in (found["part"] or ""),
    )
