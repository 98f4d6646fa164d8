"""What is not learned from: told, counted and listed."""

import io
from pathlib import Path

from rich.console import Console

from forwardpass.trainer.data.left_out import LeftOut, Place
from forwardpass.trainer.training.progress import Reporter


def told(left_out: LeftOut) -> list[str]:
    console = Console(file=io.StringIO(), width=1000)
    left_out.tell(Reporter(console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_each_kind_is_told_counted_and_listed() -> None:
    left_out = LeftOut()
    assert not left_out
    assert left_out.because() == ""
    left_out.leave_column("same", "always 'x'")
    left_out.leave_rows([Place("a.csv", 2), Place("a.csv", 5)], "without a size")
    left_out.leave_fields("size", [Place("a.csv", 3)], "infinite")
    left_out.leave_file(b"cat/\xff.jpg", "duplicate", "the same picture as cat/1.jpg")
    left_out.leave_file(Path("cat/2.jpg"), "duplicate", "the same picture as cat/1.jpg")

    notes = [
        "left out: same, always 'x'",
        "left out: 2 rows without a size, lines 2, 5",
        "size: 1 field infinite, counted as missing",
        "left out: 2 files (duplicate), such as cat/\ufffd.jpg: the same picture as cat/1.jpg",
    ]
    assert left_out.notes() == notes
    assert left_out.because() == f" ({'; '.join(notes)})"
    assert left_out.counts() == {"column": 1, "row": 2, "field": 1, "file": 2}
    assert left_out.table().decode().splitlines() == [
        "what,column,file,line,why,detail",
        "column,same,,,always 'x',",
        "row,,a.csv,2,without a size,",
        "row,,a.csv,5,without a size,",
        "field,size,a.csv,3,infinite,",
        "file,,cat/\ufffd.jpg,,duplicate,the same picture as cat/1.jpg",
        "file,,cat/2.jpg,,duplicate,the same picture as cat/1.jpg",
    ]


def test_of_many_lines_the_first_are_told() -> None:
    left_out = LeftOut(remarks=["rows are put in order"])
    for number in range(24):
        left_out.leave_column(f"c{number}", "always empty")

    lines = told(left_out)

    assert len(lines) == 21
    assert lines[0].endswith("rows are put in order")
    assert lines[-1].endswith("and 5 more: see left-out.csv in the run's folder")
