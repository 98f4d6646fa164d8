"""What of a person's own data is not learned from: told, counted, and listed beside the run.

left_out.leave_rows(places, "without a species")   a column, rows, fields or a file, and why
left_out.tell(reporter)                            on the console, a line for each reason
left_out.counts()                                  for the card
left_out.keep(run)                                 left-out.csv, all of it
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forwardpass.client.jobs.listing import as_text
from forwardpass.trainer.data.csv_file import named_lines
from forwardpass.trainer.training.progress import Reporter

if TYPE_CHECKING:
    # It imports torch, which takes seconds, and whoever fetches data does without.
    from forwardpass.trainer.training.checkpoints import Run

What = Literal["column", "row", "field", "file"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A column, row, field or file that is not used; a field counts as missing.

    Attributes:
        what: Which of these.
        why: The reason, in the same words for all that have it.
        column: Its name, of a column or a field.
        file: Of a row or a field the file's name, of a file its path.
        line: In which a row or a field's row begins, from 1.
        detail: What is so of this file alone.
    """

    what: What
    why: str
    column: str = ""
    file: str = ""
    line: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is left out, and why; and what else a person should know of how data is read.

    Attributes:
        remarks: How the data is read, where that may be wrong.
        items: What is left out.
    """

    remarks: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.items)

    def leave_column(self, name: str, why: str) -> None:
        """Notes a column that is left out."""
        self.items.append(Item(what="column", column=name, why=why))

    def leave_rows(self, places: Iterable[Place], why: str) -> None:
        """Notes rows that are left out for one reason."""
        self.items.extend(Item(what="row", file=at.file, line=at.line, why=why) for at in places)

    def leave_fields(self, column: str, places: Iterable[Place], why: str) -> None:
        """Notes fields of a column that count as missing for one reason."""
        self.items.extend(
            Item(what="field", column=column, file=at.file, line=at.line, why=why) for at in places
        )

    def leave_file(self, path: str | bytes | Path, why: str, detail: str) -> None:
        """Notes a file, or a folder with all that is in it, that is left out.

        Args:
            path: Where it lies; what of it is no UTF-8 is replaced.
            why: The reason, in the same words for all files that have it.
            detail: What is so of this one.
        """
        text = as_text(os.fsencode(path))
        self.items.append(Item(what="file", file=text, why=why, detail=detail))

    def counts(self) -> dict[str, int]:
        """Returns how many columns, rows, fields and files are left out; none that are 0."""
        return dict(Counter[str](item.what for item in self.items))

    def because(self) -> str:
        """Returns the reasons for what is left out, to end an error with."""
        notes = self.notes()
        return f" ({'; '.join(notes)})" if notes else ""

    def tell(self, reporter: Reporter) -> None:
        """Says what is left out, and the remarks; of many lines the first."""
        lines = [*self.remarks, *self.notes()]
        for line in lines[:_LINES]:
            reporter.note(line)
        if len(lines) > _LINES:
            reporter.note(f"and {len(lines) - _LINES} more: see {FILE} in the run's folder")

    def notes(self) -> list[str]:
        """Returns a line for each column, and for each reason that rows, fields and files have."""
        alike: dict[tuple[What, str, str], list[Item]] = {}
        for item in self.items:
            alike.setdefault((item.what, item.column, item.why), []).append(item)
        return [_note(items) for items in alike.values()]

    def table(self) -> bytes:
        """Returns all that is left out as a CSV file: what, column, file, line, why, detail."""
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(["what", "column", "file", "line", "why", "detail"])
        writer.writerows(
            [item.what, item.column, item.file, item.line, item.why, item.detail]
            for item in self.items
        )
        return written.getvalue().encode()

    def keep(self, run: "Run") -> None:
        """Writes the table into a run's folder, where there is something in it."""
        if self.items:
            run.keep_file(FILE, self.table())


def _note(items: list[Item]) -> str:
    """Returns what is told of items that are left out for one reason."""
    first = items[0]
    count = f"{len(items):,} {first.what}{'s' if len(items) > 1 else ''}"
    match first.what:
        case "column":
            return f"left out: {first.column}, {first.why}"
        case "row":
            lines = [item.line for item in items if item.line is not None]
            return f"left out: {count} {first.why}, {named_lines(lines)}"
        case "field":
            return f"{first.column}: {count} {first.why}, counted as missing"
        case "file":
            return f"left out: {count} ({first.why}), such as {first.file}: {first.detail}"
