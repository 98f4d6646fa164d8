"""What the commands print on standard output: tables for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from forwardpass.trainer.display import number_text

if TYPE_CHECKING:
    from forwardpass.trainer.export.published import Published

# In a file or a pipe there is no width to keep to.
_WIDE = 200
_out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)


def print_line(text: str) -> None:
    """Prints a sentence."""
    _out.print(text, highlight=False)


def print_json(value: Any) -> None:
    """Prints JSON."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_rows(rows: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    """Prints what is known of things that people type the names of, first the name."""
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, header_style="bold")
    for column in rows[0]:
        # A narrow window may wrap what is said of a thing, but people type its name.
        table.add_column(column, no_wrap=column == "name")
    for row in rows:
        table.add_row(*row.values())
    _out.print(table)


def print_facts(
    facts: Mapping[str, Any], title: str, *, as_json: bool, source: str = "torch"
) -> None:
    """Prints what is known of one version.

    Args:
        facts: By name.
        title: The model's name.
        as_json: Whether a program reads it.
        source: Whose answers the version's own are compared with.
    """
    if as_json:
        print_json(facts)
        return
    table = Table(title=title, box=None, show_header=False, title_justify="left")
    for name, value in facts.items():
        if text := _text(value, source):  # kernels has no metrics
            table.add_row(name.replace("_", " "), text)
    _out.print(table)


def print_points(points: Sequence[Mapping[str, str | float]], best: int) -> None:
    """Prints the points of a sweep; where training diverged, the measures are not there."""
    columns = list(points[best])
    table = Table(*(name.replace("_", " ") for name in columns), box=None, header_style="bold")
    for index, point in enumerate(points):
        cells = (point.get(name, "diverged") for name in columns)
        texts = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
        table.add_row(*texts, style="bold green" if index == best else None)
    _out.print(table)


def print_sizes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints how big architectures are."""
    table = Table(box=None, header_style="bold")
    for column in ("name", "parameters", "multiply-adds", "input", "outputs", "reference"):
        counts = column in ("parameters", "multiply-adds")
        table.add_column(column, justify="right" if counts else "left")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            _extents(row["input"]),
            "\n".join(f"{name} {_extents(shape)}" for name, shape in row["outputs"].items()),
            row["reference"],
        )
    _out.print(table)
    for row in rows:
        if row["trainee_parameters"] != row["parameters"]:
            print_line(
                f"{row['name']} has {row['trainee_parameters']:,} parameters while it is trained"
            )


def describe_version(published: "Published") -> dict[str, Any]:
    """Returns the facts of a version that was made just now."""
    card, folder = published.card, published.folder
    return {
        "model": os.fspath(folder / "model.onnx"),
        "plots": os.fspath(folder / "plots"),
        "report": os.fspath(folder / "report.html"),
        "version": int(folder.name),
        "metrics": dict(sorted(card.metrics.items())),
        "parameters": card.parameters,
        "parity_error": card.parity_error,
        "seed": card.seed,
    }


def describe_int8(published: "Published") -> dict[str, Any]:
    """Returns the facts of an int8 version, beside its parent's."""
    card, folder = published.card, published.folder
    differences = card.quantization.differences
    return {
        "model": os.fspath(folder / "model.onnx"),
        "version": int(folder.name),
        "parent_version": card.quantization.parent_version,
        "metrics": dict(sorted(card.metrics.items())),
        "parent_metrics": dict(sorted(card.quantization.parent_metrics.items())),
        "same_class": {k: d.same_class for k, d in differences.items() if d.HasField("same_class")},
        "mean_cosine": {k: d.mean_cosine for k, d in sorted(differences.items())},
        "max_absolute": {k: d.max_absolute for k, d in sorted(differences.items())},
        "bytes": (folder / "model.onnx").stat().st_size,
    }


def _text(value: Any, source: str) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name} {number_text(number)}" for name, number in value.items())
    if isinstance(value, float):
        return f"{value:.2g} away from {source} at most"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _extents(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
