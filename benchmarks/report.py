"""Tables, as a terminal and as docs/performance.md show them, and the machine they are from."""

import datetime as dt
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rich.table
from rich.console import Console

_BEGIN = "<!-- make bench writes from here -->"
_END = "<!-- to here -->"
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Table:
    """Figures, with how they were measured.

    Attributes:
        title: What the table tells.
        how: How it was measured.
        columns: Their headings.
        rows: A text for each column.
    """

    title: str
    how: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Failed:
    """A measurement that could not be made.

    Attributes:
        name: Of the measurement.
        reason: Why, in one line or more.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, and its 95 % interval.

    Attributes:
        median: Of the ratios.
        low: The lower end of the interval.
        high: Its upper end.
    """

    median: float
    low: float
    high: float

    def told(self, places: int) -> str:
        """Returns all three with so many decimal places, "1.00 [0.98, 1.03]"."""
        return f"{self.median:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}]"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Returns the median of the rounds' ratios, and what 95 % of resamplings give as the median.

    The percentile bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13.

    Args:
        ours: A figure of each round.
        theirs: What it is divided by, of the same rounds.
    """
    ratios = np.array(ours) / np.array(theirs)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (_RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def ratio(ours: Sequence[float], theirs: Sequence[float], places: int = 2) -> str:
    """Returns what `ratio_of` does, as the tables show it."""
    return ratio_of(ours, theirs).told(places)


def machine() -> str:
    """Describes where this runs, in one paragraph."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = dict(line.split("\t:", 1) for line in lines if "\t:" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni") if flag in flags]
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "protobuf")
    )
    return (
        f"{facts.get('model name', platform.machine())} ({' '.join(known) or 'no AVX2'}), "
        f"{len(os.sched_getaffinity(0))} cores, {platform.system()}, "
        f"Python {platform.python_version()}, {packages}; "
        f"{dt.datetime.now(dt.UTC).date()}, load average at the start "
        f"{os.getloadavg()[0]:.1f}."
    )


def show(parts: Sequence[Table | Failed]) -> None:
    """Prints tables, and why others are missing."""
    console = Console()
    for table in parts:
        if isinstance(table, Failed):
            console.print(f"{table.name} was not measured: {table.reason}", markup=False)
            continue
        drawn = rich.table.Table(*table.columns, title=table.title, caption=table.how)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def write(path: Path, about: str, tables: Sequence[Table | Failed]) -> None:
    """Puts tables between the markers of a Markdown file, instead of what was there.

    Args:
        path: The file.
        about: A paragraph that comes first.
        tables: What follows.
    """
    before, rest = path.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    parts = [_BEGIN, about, *map(_markdown, tables), _END]
    path.write_text(before + "\n\n".join(parts) + after, encoding="utf-8")


def _markdown(table: Table | Failed) -> str:
    if isinstance(table, Failed):
        return f"### {table.name}\n\nNot measured:\n\n```\n{table.reason}\n```"
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    drawn = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"### {table.title}\n\n{table.how}\n\n{drawn}"
