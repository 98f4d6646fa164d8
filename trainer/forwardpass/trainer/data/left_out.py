"""What of a person's own data is not learned from: told, counted, and listed beside the run."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from forwardpass.trainer.data.csv_file import named_lines
from forwardpass.trainer.training.progress import Reporter

# What the table is called beside a run.
FILE = "left-out.csv"
# Of what is told while a run begins.
_LINES = 20


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a file.

    Attributes:
        file: Its name, with folders only where they tell it from another.
        line: In which the row begins, from 1.
    """

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is left out, and why; and what else a person should know of how data is read.

    Attributes:
        remarks: How the data is read, where that may be wrong.
        columns: The reason for each column.
        rows: The reason for each row.
        values: The reason for each field, by column and row; it counts as missing.
    """

    remarks: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    rows: dict[Place, str] = field(default_factory=dict)
    values: dict[tuple[str, Place], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.columns or self.rows or self.values)

    def leave_rows(self, places: Iterable[Place], why: str) -> None:
        """Notes rows that are left out for one reason."""
        self.rows.update(dict.fromkeys(places, why))

    def sentence(self) -> str:
        """Returns how much is left out, as the card says it; "" where nothing is."""
        counts = [
            f"{len(found):,} {_plural(name, len(found))}"
            for name, found in (("column", self.columns), ("row", self.rows))
            if found
        ]
        if not counts:
            return ""
        verb = "was" if len(self.columns) + len(self.rows) == 1 else "were"
        return f"{' and '.join(counts)} of the data {verb} left out."

    def tell(self, reporter: Reporter) -> None:
        """Says what is left out, and the remarks; of many lines the first."""
        lines = [*self.remarks, *self.notes()]
        for line in lines[:_LINES]:
            reporter.note(line)
        if len(lines) > _LINES:
            reporter.note(f"and {len(lines) - _LINES} more: see {FILE} in the run's folder")

    def notes(self) -> list[str]:
        """Returns a line for each column, and for each reason that rows and fields have."""
        notes = [f"left out: {name}, {why}" for name, why in self.columns.items()]
        for why, count in Counter(self.rows.values()).items():
            lines = [place.line for place, reason in self.rows.items() if reason == why]
            notes.append(f"left out: {count:,} {_plural('row', count)} {why}, {named_lines(lines)}")
        fields = Counter((name, why) for (name, _), why in self.values.items())
        notes += [
            f"{name}: {count:,} {_plural('field', count)} {why}, counted as missing"
            for (name, why), count in fields.items()
        ]
        return notes

    def table(self) -> bytes:
        """Returns all that is left out as a CSV file: what, column, file, line, why."""
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(["what", "column", "file", "line", "why"])
        writer.writerows(["column", name, "", "", why] for name, why in self.columns.items())
        writer.writerows(["row", "", at.file, at.line, why] for at, why in self.rows.items())
        writer.writerows(
            ["field", name, at.file, at.line, why] for (name, at), why in self.values.items()
        )
        return written.getvalue().encode()


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
