"""Test rows as a CSV file, to try a served model with what it has not learned from."""

import csv
from collections.abc import Iterator
from pathlib import Path

from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.data.series import Series
from forwardpass.trainer.errors import DataError


def write_table(data: Dataset | Series, file: Path) -> int:
    """Writes the test rows, a line each, below a line of headings; returns how many.

    Of a series these are `year` and `value`; of a data set `input` or `input_0` and so on, then
    `target`, which is a label where classes have names.

    Args:
        data: Its test inputs are numbers or texts, at most one axis a row.
        file: Where to write; what is there is replaced.

    Raises:
        DataError: It has pictures, or the file cannot be written.
    """
    headings, rows = _of_series(data) if isinstance(data, Series) else _of_dataset(data)
    written = 0
    try:
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(headings)
            for row in rows:
                writer.writerow(row)
                written += 1
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror or error}") from error
    return written


def _of_series(data: Series) -> tuple[list[str], Iterator[list[object]]]:
    pairs = zip(data.years[-data.test :].tolist(), data.truth.tolist(), strict=True)
    return ["year", "value"], ([f"{year:.4f}", value] for year, value in pairs)


def _of_dataset(data: Dataset) -> tuple[list[str], Iterator[list[object]]]:
    inputs, targets = data.test.inputs, data.test.targets
    if inputs.ndim > 2:
        raise DataError(f"{data.name} has pictures; --pictures FOLDER writes those")
    columns = inputs.reshape(len(inputs), -1)
    single = columns.shape[1] == 1
    headings = ["input"] if single else [f"input_{index}" for index in range(columns.shape[1])]

    def name(target: object) -> object:
        return data.labels[target] if data.labels and isinstance(target, int) else target

    rows = zip(columns.tolist(), targets.reshape(len(targets), -1).tolist(), strict=True)
    return [*headings, "target"], ([*row, *map(name, target)] for row, target in rows)
