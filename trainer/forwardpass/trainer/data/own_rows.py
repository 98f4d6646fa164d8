"""The rows of one's own CSV file, or of two, and the column that is to be told from the others."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.data import csv_file
from forwardpass.trainer.data.fields import (
    Mark,
    Numbers,
    are_dates,
    decimal_mark,
    is_missing,
    read_numbers,
)
from forwardpass.trainer.data.left_out import LeftOut, Place
from forwardpass.trainer.errors import DataError, UnknownNameError
from forwardpass.wire import Array

Kind = Literal["auto", "classes", "numbers"]

# Less is too little to learn from, choose by and measure on.
MIN_ROWS = 20
# Of a class: one to learn from, one to choose by, one to measure on.
MIN_CLASS_ROWS = 3
MAX_CLASSES = 200
# Whole numbers, so many different ones at most, are classes if rows are five times as many.
_FEW, _ROWS_EACH = 20, 5
# Fields that an error names.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Rows as they are written.

    Attributes:
        file: What was read.
        columns: By name (rows).
        places: Where each row stands (rows).
        tested: Whether it is of the file with the test rows (rows).
        separator: What stands between fields.
    """

    file: Path
    columns: Mapping[str, Sequence[str]]
    places: Sequence[Place]
    tested: NDArray[np.bool_]
    separator: str

    @cached_property
    def decimal(self) -> Mark:
        """What stands before decimals."""
        return decimal_mark(self.columns.values(), self.separator)

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str) -> Sequence[str]:
        """Returns the fields of a column.

        Raises:
            UnknownNameError: There is no such column.
        """
        if name not in self.columns:
            raise UnknownNameError(f"column in {self.file.name}", name, self.columns)
        return self.columns[name]

    def take(self, rows: Sequence[int]) -> Self:
        """Returns some of the rows."""
        return replace(
            self,
            columns={name: [fields[row] for row in rows] for name, fields in self.columns.items()},
            places=[self.places[row] for row in rows],
            tested=self.tested[rows],
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be told.

    Attributes:
        values: Classes as int64 (n), or numbers as float32 (n, 1).
        labels: The name of each class; none where it is numbers.
        why: Why it is taken for classes, or for numbers.
    """

    values: Array
    labels: tuple[str, ...]
    why: str


def read_rows(file: Path, test: Path | None, left_out: LeftOut) -> OwnRows:
    """Returns the rows of a CSV file, and below them those of one with test rows.

    Args:
        file: The CSV file.
        test: One with test rows; None for none.
        left_out: Where it is remarked how they are read.

    Raises:
        DataError: A file cannot be read, or the second has other columns than the first.
    """
    tables = [csv_file.read(path) for path in (file, test) if path is not None]
    first, counts = tables[0], [len(table) for table in tables]
    for other in tables[1:]:
        _check_same(first, other)
    left_out.remarks.extend(
        f"{table.path.name} is no UTF-8, and is read as {table.encoding}"
        for table in tables
        if not table.encoding.startswith("utf")
    )
    # Of one name in two folders the folders tell.
    same = len({table.path.name for table in tables}) < len(tables)
    names = [str(table.path) if same else table.path.name for table in tables]
    return OwnRows(
        file=file,
        columns={
            name: [field for table in tables for field in table.columns[name]]
            for name in first.columns
        },
        places=[
            Place(name, line)
            for name, table in zip(names, tables, strict=True)
            for line in table.lines
        ],
        tested=np.repeat(np.arange(len(tables)) > 0, counts),
        separator=first.separator,
    )


def read_target(rows: OwnRows, name: str, kind: Kind, left_out: LeftOut) -> tuple[OwnRows, Target]:
    """Returns the rows that can be learned from or measured on, and what is to be told of each.

    Args:
        rows: Of one's own file.
        name: The column's.
        kind: Whether it is classes or numbers; "auto" has its values tell.
        left_out: Where rows are noted without a target, or of a class with too few.

    Raises:
        UnknownNameError: There is no such column.
        DataError: Nothing can be learned from it.
    """
    missing = [row for row, field in enumerate(rows.column(name)) if is_missing(field)]
    left_out.leave_rows((rows.places[row] for row in missing), f"without a {name}")
    rows = _without(rows, missing)
    fields = rows.column(name)
    numbers = read_numbers(fields, rows.decimal)
    if kind == "auto":
        kind, why = _kind(rows, name, fields, numbers)
    else:
        why = f"task={kind} is given"
    if kind == "numbers":
        rows, target = _read_numbers(rows, name, numbers, why, left_out)
    else:
        rows, target = _read_classes(rows, name, numbers, why, left_out)
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{rows.file} has {len(rows)} rows to learn {name} from, and at least {MIN_ROWS} are "
            f"needed{left_out.because()}"
        )
    return rows, target


def fields_named(fields: Sequence[str], rows: OwnRows, at: Sequence[int]) -> str:
    """Returns fields as an error names them, with their lines, and how many more there are."""
    named = [f"{fields[row]!r} in line {rows.places[row].line}" for row in at[:_NAMED]]
    more = f" and {len(at) - _NAMED} more" if len(at) > _NAMED else ""
    return ", ".join(named) + more


def _check_same(first: csv_file.Table, other: csv_file.Table) -> None:
    lacks, beside = (
        [name for name in columns if name not in others]
        for columns, others in (
            (first.columns, other.columns),
            (other.columns, first.columns),
        )
    )
    problems = [
        f"{verb} {', '.join(map(repr, names))}"
        for verb, names in (("lacks", lacks), ("has beside", beside))
        if names
    ]
    if problems:
        raise DataError(
            f"{other.path} has other columns than {first.path}: it {' and '.join(problems)}"
        )


def _without(rows: OwnRows, unwanted: Iterable[int]) -> OwnRows:
    found = set(unwanted)
    return rows.take([row for row in range(len(rows)) if row not in found]) if found else rows


def _kind(
    rows: OwnRows, name: str, fields: Sequence[str], numbers: Numbers
) -> tuple[Literal["classes", "numbers"], str]:
    """Returns what the target's values are, and why."""
    count = len(set(fields))
    if numbers.booleans:
        return "classes", "its values are true and false"
    if numbers.plain:
        distinct = np.unique(numbers.values)
        whole = bool((distinct == np.round(distinct)).all())
        if whole and len(distinct) <= min(_FEW, max(2, len(rows) // _ROWS_EACH)):
            return "classes", f"its values are {len(distinct)} whole numbers"
        return "numbers", f"its values are {len(distinct):,} different numbers"
    if are_dates(fields):
        raise DataError(
            f"{name} holds dates; to tell when, give a number, such as of days from a day on"
        )
    if count > _FEW and not numbers.texts:
        units = ", ".join(map(repr, sorted(numbers.units)))
        raise DataError(f"{name} holds numbers in several units: {units}; convert them to one")
    if count > _FEW and len(numbers.texts) * 2 <= len(fields):
        raise DataError(
            f"{name} holds numbers, but for {fields_named(fields, rows, numbers.texts)}; mend "
            "those fields, or leave them empty"
        )
    return "classes", "its values are texts"


def _read_numbers(
    rows: OwnRows,
    name: str,
    numbers: Numbers,
    why: str,
    left_out: LeftOut,
) -> tuple[OwnRows, Target]:
    if not numbers.plain:
        found = fields_named(rows.column(name), rows, numbers.texts) or ", ".join(
            map(repr, sorted(numbers.units))
        )
        raise DataError(
            f"{name} holds what are no numbers of one unit: {found}; give task=classes, or mend "
            "those fields"
        )
    with np.errstate(over="ignore"):
        values = numbers.values.astype(np.float32)
    infinite = np.flatnonzero(~np.isfinite(values)).tolist()
    left_out.leave_rows((rows.places[row] for row in infinite), f"with an infinite {name}")
    rows, values = _without(rows, infinite), values[np.isfinite(values)]
    if len(values) and (values == values[0]).all():
        raise DataError(f"{name} is {values[0]:g} in all rows, so there is nothing to tell")
    return rows, Target(values[:, np.newaxis], (), why)


def _read_classes(
    rows: OwnRows, name: str, numbers: Numbers, why: str, left_out: LeftOut
) -> tuple[OwnRows, Target]:
    fields = [field.strip() for field in rows.column(name)]
    if numbers.plain and not numbers.booleans:
        # 1 and 1.0 are one class.
        fields = [_number_text(value) for value in numbers.values]
    if (count := len(set(fields))) > MAX_CLASSES:
        raise DataError(
            f"{name} has {count:,} different values in {len(fields):,} rows, and at most "
            f"{MAX_CLASSES} classes are told apart; take another column, or put rare classes "
            "together" + ("" if numbers.texts else ", or give task=numbers")
        )
    counts = Counter(field for field, tested in zip(fields, rows.tested, strict=True) if not tested)
    rare = {
        label: f"of the class {label!r}, which {rows.file.name} has in "
        + (f"{counts[label]} row{'s' if counts[label] > 1 else ''}" if counts[label] else "no row")
        + f", of {MIN_CLASS_ROWS} that it takes"
        for label in sorted(set(fields))
        if counts[label] < MIN_CLASS_ROWS
    }
    for label, reason in rare.items():
        left_out.leave_rows(
            (at for at, field in zip(rows.places, fields, strict=True) if field == label), reason
        )
    rows = _without(rows, (row for row, field in enumerate(fields) if field in rare))
    fields = [field for field in fields if field not in rare]
    labels = sorted(set(fields), key=_order)
    if len(labels) < 2:
        found = f"one class only, {labels[0]!r}" if labels else "no class with enough rows"
        raise DataError(f"{name} has {found}, so there is nothing to tell{left_out.because()}")
    places = {label: place for place, label in enumerate(labels)}
    return rows, Target(np.array([places[field] for field in fields]), tuple(labels), why)


def _number_text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


def _order(label: str) -> tuple[float, str]:
    """Returns what sorts labels: as numbers, then as texts."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label
