"""What commands print: tables for people, JSON for programs."""

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from forwardpass.client.polarity import PolarityWarning

# Where output goes to a file or a program there is no width to keep to.
_WIDE = 200


def console(*, stderr: bool = False) -> Console:
    """Returns a console that prints text as it is: names may hold [brackets] and :colons:."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_json(value: Any) -> None:
    """Prints dataclasses, arrays, mappings and lists as a line of JSON; NaN becomes "NaN"."""
    sys.stdout.write(json.dumps(_plain(value), allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        # bfloat16 is of kind "V", and has no Python number of its own.
        return _plain((value.astype(np.float32) if value.dtype.kind == "V" else value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers; these are the names that protobuf's JSON gives them.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def tell_warning(text: str) -> None:
    """Prints a warning to standard error, as a line of its own."""
    sys.stderr.write(f"warning: {text}\n")


@contextmanager
def told_warnings() -> Iterator[None]:
    """Prints what the client warns of as `tell_warning` does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PolarityWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, PolarityWarning):
            tell_warning(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def progress() -> Progress:
    """Returns a bar on standard error with the count, the rate and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / (task.elapsed or 1):,.0f}/s")
