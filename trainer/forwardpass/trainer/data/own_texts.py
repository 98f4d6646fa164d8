"""Texts of one's own with a class each, from two columns of a CSV file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.trainer.data.own_rows import read_rows, read_target
from forwardpass.trainer.data.splits import limited, row_digest, split
from forwardpass.trainer.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTexts(Dataset):
    """Texts as an array of `str` (n), and their classes as int64 (n)."""

    def limited(self, count: int) -> Self:
        """Returns so many texts of each split, from all over it; 0 for all of them.

        Raises:
            SettingError: They are of one class.
        """
        if not count:
            return self
        parts = (self.train, self.validation, self.test)
        rows = limited(count, [part.targets for part in parts])
        train, validation, test = (
            Split(part.inputs[each], part.targets[each])
            for part, each in zip(parts, rows, strict=True)
        )
        return replace(self, train=train, validation=validation, test=test)


def load(file: Path, text: str, target: str) -> OwnTexts:
    """Returns the texts of a CSV file, split, with each class as often in each part.

    Texts that are equal but for the spaces in them are in one split.

    Args:
        file: The CSV file.
        text: The column of the texts.
        target: The column of their classes.

    Raises:
        SettingError: Both are one column.
        UnknownNameError: There is no such column.
        DataError: The file cannot be read, or nothing can be learned from what is in it.
    """
    if text == target:
        raise SettingError(f"text={text} is the target, too; name the column that has the texts")
    left_out = LeftOut()
    rows = read_rows(file, None, left_out)
    empty = {row for row, field in enumerate(rows.column(text)) if not field.strip()}
    left_out.leave_rows((rows.places[row] for row in sorted(empty)), f"without a {text}")
    rows = rows.take([row for row in range(len(rows)) if row not in empty])
    rows, told = read_target(rows, target, "classes", left_out)
    texts = rows.columns[text]
    digests = [row_digest(*each.split()) for each in texts]
    inputs = np.array(texts, object)
    parts = split(digests, told.values.tolist())
    train, validation, test = (Split(inputs[part], told.values[part]) for part in parts)
    return OwnTexts(
        name=file.stem,
        origin=file.name,
        license="",
        labels=told.labels,
        train=train,
        validation=validation,
        test=test,
        left_out=left_out,
    )
