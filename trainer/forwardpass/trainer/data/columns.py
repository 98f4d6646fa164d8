"""A table of one's own: numbers and categories, from which one column is to be told.

    CSV file ─ own_rows ─► the target, numbers or classes
                       └─► columns ─ fields ─► numbers, categories, or left out
                                            └─ splits ─► training, validation and test rows

Whatever is left out is told, with the reason: see `left_out`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import array_digest
from forwardpass.trainer.data.fields import Numbers, are_dates, is_missing, read_numbers
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.trainer.data.own_rows import (
    Kind,
    OwnRows,
    Target,
    fields_named,
    read_rows,
    read_target,
)
from forwardpass.trainer.data.splits import Splits, limited, row_digest, split
from forwardpass.trainer.errors import DataError
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# Each is an input of the graph.
MAX_COLUMNS = 500
# So many different texts may be in any column; of more, at most half as many as there are rows.
_FEW = 20
# Of values that are there again, beyond which a column does not go with the target by chance.
_AGAIN = 5
# Rows of each, beyond which it is remarked that most are copies.
_COPIES = 4
# Up to here float32 has all whole numbers.
_EXACT = 1 << 24
# How far from a straight line rounding takes the target in another unit.
_STRAIGHT = 1e-9
# What a column of row numbers or keys is called.
_KEY = re.compile(r"column \d+|unnamed: ?\d+|#|(.*[\W_])?(id|index|key|no|nr|number|row)|rowid")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a split.

    Attributes:
        columns: By name: numbers as float32 (n, 1), great whole ones as float64, NaN where one is
            missing; categories as texts of `str` (n, 1), "" where one is missing.
        targets: Classes as int64 (n), or numbers as float32 (n, 1).
    """

    columns: Mapping[str, Array]
    targets: Array

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Array) -> Self:
        """Returns some of the rows."""
        columns = {name: array[rows] for name, array in self.columns.items()}
        return type(self)(columns, self.targets[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class TableData:
    """What is learned from a CSV file.

    Attributes:
        name: The file's, without folders.
        target: The name of the column that is to be told from the others.
        labels: Its classes; none where it is numbers.
        why: Why it is taken for classes, or for numbers.
        train: Learned from.
        validation: Chosen by.
        test: Measured on.
        left_out: What is not learned from.
    """

    name: str
    target: str
    labels: tuple[str, ...]
    why: str
    train: Part
    validation: Part
    test: Part
    left_out: LeftOut

    def limited(self, count: int) -> Self:
        """Returns so many rows of each split, from all over it; 0 for all of them.

        Raises:
            SettingError: Nothing is left to tell apart.
        """
        if not count:
            return self
        parts = (self.train, self.validation, self.test)
        rows = limited(count, [part.targets for part in parts])
        train, validation, test = (part.take(each) for part, each in zip(parts, rows, strict=True))
        return replace(self, train=train, validation=validation, test=test)

    def digest(self) -> str:
        """Returns the SHA-256 of all that training sees or is measured on."""
        names = np.array([self.target, *self.labels, "", *self.train.columns], object)
        parts = (self.train, self.validation, self.test)
        return array_digest(
            [names, *(array for part in parts for array in (*part.columns.values(), part.targets))]
        )

    def source(self) -> model_card_pb2.DataSource:
        """Returns the card's description of it."""
        return model_card_pb2.DataSource(
            name=Path(self.name).stem,
            origin=self.name,
            sha256=self.digest(),
            train_rows=len(self.train),
            test_rows=len(self.test),
            left_out=self.left_out.counts(),
        )


def load(file: Path, target: str, *, kind: Kind = "auto", test: Path | None = None) -> TableData:
    """Returns what can be learned from a CSV file, with each class as often in each split.

    Rows that are equal are in one split. Where the test rows come in a file of their own, rows
    that are there too are not learned from.

    Args:
        file: The CSV file.
        target: The column that is to be told.
        kind: Whether it is classes or numbers; "auto" has its values tell.
        test: A CSV file of the same columns with the rows to measure on; None for a share of all.

    Raises:
        UnknownNameError: There is no such column.
        DataError: A file cannot be read, or nothing can be learned from what is in it.
    """
    left_out = LeftOut()
    rows, told = read_target(read_rows(file, test, left_out), target, kind, left_out)
    if test is not None and not rows.tested.any():
        raise DataError(f"{test} has no row to measure on{left_out.because()}")
    columns = {}
    for name in rows.columns:
        if name != target:
            read = _read_column(rows, name, left_out)
            reason = read if isinstance(read, str) else _leak(read, told, target)
            if reason:
                left_out.leave_column(name, reason)
            elif not isinstance(read, str):
                columns[name] = read
    if not columns:
        raise DataError(f"no column of {file} can tell {target}{left_out.because()}")
    if len(columns) > MAX_COLUMNS:
        raise DataError(
            f"{file} has {len(columns):,} columns to learn from, each of which becomes an input, "
            f"and at most {MAX_COLUMNS} are taken; leave some out"
        )
    splits = _split(rows, columns, told, left_out)
    whole = Part({name: array[:, np.newaxis] for name, array in columns.items()}, told.values)
    return TableData(
        name=file.name,
        target=target,
        labels=told.labels,
        why=told.why,
        train=whole.take(splits.train),
        validation=whole.take(splits.validation),
        test=whole.take(splits.test),
        left_out=left_out,
    )


def _read_column(rows: OwnRows, name: str, left_out: LeftOut) -> Array | str:
    """Returns numbers or categories (n), or why the column is left out."""
    fields = rows.columns[name]
    given = [field for field in fields if not is_missing(field)]
    if not given:
        return "always empty"
    if len(set(given)) == 1 and len(given) == len(fields):
        return f"always {given[0]!r}"
    numbers = read_numbers(fields, rows.decimal)
    if numbers.plain:
        if numbers.style:
            left_out.remarks.append(f"{name} is read as numbers {numbers.style}")
        return _finite(rows, name, numbers.values, left_out)
    return _no_categories(rows, name, given, numbers) or np.array(
        ["" if is_missing(field) else field for field in fields], object
    )


def _no_categories(rows: OwnRows, name: str, given: Sequence[str], numbers: Numbers) -> str:
    """Returns why texts are no categories; "" where they are."""
    different = len(set(given))
    if are_dates(given):
        return "dates: give what they tell as numbers, such as the month"
    if not numbers.texts and different > _FEW:
        units = ", ".join(repr(unit) for unit in sorted(numbers.units))
        return f"numbers in several units: {units}"
    if numbers.texts and different > _FEW and len(numbers.texts) * 2 <= len(given):
        return f"numbers but for {fields_named(rows.columns[name], rows, numbers.texts)}"
    if different == len(given) or (different > _FEW and different * 2 > len(given)):
        return (
            f"{different:,} different texts in {len(given):,} rows, as names, keys and free text "
            "have"
        )
    return ""


def _finite(
    rows: OwnRows, name: str, values: NDArray[np.float64], left_out: LeftOut
) -> Array | str:
    """Returns a column's numbers, NaN for infinite ones; or why it is left out.

    Greater whole numbers than float32 can tell apart are float64, so that a caller who has them as
    integers may send them.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    infinite = np.isinf(rounded)
    if infinite.any():
        at = np.flatnonzero(infinite).tolist()
        left_out.leave_fields(name, (rows.places[row] for row in at), "infinite")
        rounded[infinite] = np.nan
    finite = np.isfinite(rounded)
    different = np.unique(values[finite])
    if not len(different):
        return "always infinite"
    if len(different) == 1 and finite.all():
        return f"always {different[0]:g}"
    whole = bool((different == np.round(different)).all())
    if whole and len(different) == len(values) and _KEY.fullmatch(name.lower()):
        return "row numbers or keys: whole numbers, each in one row"
    if len(np.unique(rounded[finite])) * 2 < len(different):
        return (
            f"its numbers, from {different[0]:.17g} to {different[-1]:.17g}, are too near each "
            "other for float32: give them less the first one"
        )
    if whole and np.abs(different).max() > _EXACT:
        return np.where(np.isnan(rounded), np.nan, values)
    return rounded


def _leak(column: Array, target: Target, name: str) -> str:
    """Returns why a column tells the target by itself; "" where it does not."""
    known = ~np.isnan(column) if column.dtype.kind == "f" else np.ones(len(column), bool)
    values, answers = column[known], target.values.ravel()[known]
    _, codes = np.unique(values, return_inverse=True)
    _, classes = np.unique(answers, return_inverse=True)
    different = codes.max(initial=-1) + 1
    pairs = len(np.unique(codes * (classes.max(initial=0) + 1) + classes))
    if different == classes.max(initial=-1) + 1 == pairs and len(values) - different >= _AGAIN:
        return f"each of its values goes with one of {name}, and the other way round: a leak"
    if column.dtype.kind == "f" and not target.labels and different > 2:
        straight = abs(np.corrcoef(values.astype(np.float64), answers)[0, 1])
        if 1 - straight < _STRAIGHT:
            return f"it is {name} in another unit: a leak"
    return ""


def _split(
    rows: OwnRows, columns: Mapping[str, Array], target: Target, left_out: LeftOut
) -> Splits:
    """Returns the rows of each split; no row has a copy in another."""
    answers = target.values.ravel()
    # -0 is 0.
    arrays = [
        array + 0 if array.dtype.kind == "f" else array for array in (*columns.values(), answers)
    ]
    fields = zip(*(array.tolist() for array in arrays), strict=True)
    digests = [row_digest(*row) for row in fields]
    if (different := len(set(digests))) * _COPIES < len(digests):
        left_out.remarks.append(
            f"{len(digests):,} rows are copies of {different:,}; copies are in one split, so the "
            "test rows are such as were never learned from"
        )
    strata = answers.tolist() if target.labels else [0] * len(rows)
    test = np.flatnonzero(rows.tested)
    if not len(test):
        return split(digests, strata)
    tested = {digests[row] for row in test}
    learned = np.flatnonzero(~rows.tested).tolist()
    copies = [row for row in learned if digests[row] in tested]
    left_out.leave_rows((rows.places[row] for row in copies), "a copy of a test row")
    others = np.array([row for row in learned if digests[row] not in tested], np.int64)
    if not len(others):
        raise DataError(f"each row of {rows.file} is a test row, too: none is left to learn from")
    train, validation, _ = split(
        [digests[row] for row in others], [strata[row] for row in others], test=0
    )
    return Splits(others[train], others[validation], test)
