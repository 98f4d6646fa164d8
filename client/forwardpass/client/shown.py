"""How answers look at a prompt and in a notebook: their sizes, not their values."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Protocol

import numpy as np

from forwardpass.wire import Array

# Of rows, outputs and pictures; what is beyond is told by its number.
_MOST_ROWS, _MOST_NAMES, _MOST_PICTURES = 10, 4, 64
_PICTURE_PIXELS = 56
_BAR = "background:#0072B2;height:.8em;width:{:.0%}"


class Scored(Protocol):
    """A class and how likely it is."""

    @property
    def index(self) -> int: ...

    @property
    def label(self) -> str: ...

    @property
    def probability(self) -> float: ...


def sizes(arrays: Mapping[str, Array]) -> str:
    """Returns name, type and shape of a few arrays, and how many more there are."""
    told = [f"{name}: {size(array)}" for name, array in list(arrays.items())[:_MOST_NAMES]]
    more = len(arrays) - len(told)
    return ", ".join([*told, *([f"{more} more"] if more else [])])


def size(array: Array) -> str:
    """Returns type and shape of an array."""
    kind = "string" if array.dtype == object else str(array.dtype)
    return f"{kind} {array.shape}"


def likeliest(classes: Sequence[Sequence[Scored]]) -> str:
    """Returns the likeliest class of a few rows."""
    told = [f"{row[0].label or row[0].index} {row[0].probability:.3f}" for row in classes if row]
    more = len(told) - _MOST_NAMES
    return ", ".join(told[:_MOST_NAMES]) + (f", {more} more" if more > 0 else "")


def bars(classes: Sequence[Sequence[Scored]]) -> str:
    """Returns HTML with a bar for each class of a few rows."""
    lines = []
    for number, row in enumerate(classes[:_MOST_ROWS]):
        for one in row:
            label = escape(one.label or str(one.index))
            width = min(1.0, max(0.0, one.probability))
            bar = f'<div style="{_BAR.format(width)}"></div>'
            cells = (str(number), label, f"{one.probability:.4f}", bar)
            lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    return _table(("row", "class", "", ""), lines, len(classes) - _MOST_ROWS, "rows")


def facts(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Returns HTML with a line for each fact."""
    lines = [f"<td>{escape(name)}</td><td>{escape(value)}</td>" for name, value in pairs if value]
    return f"<b>{escape(title)}</b>" + _table((), lines, 0, "")


def pictures(files: Sequence[bytes]) -> str:
    """Returns HTML that shows a few PNG files."""
    shown = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(file).decode()}" '
        f'style="min-width:{_PICTURE_PIXELS}px;image-rendering:pixelated;margin:1px">'
        for file in files[:_MOST_PICTURES]
    )
    more = len(files) - _MOST_PICTURES
    return f"<div>{shown}</div>" + (f"<div>and {more} more</div>" if more > 0 else "")


def as_png(samples: Array | None) -> Sequence[bytes]:
    """Returns the first of some samples as PNG files; none where they are no pictures."""
    if samples is None or samples.dtype != np.uint8 or samples.ndim != 4:
        return ()
    if samples.shape[3] not in (1, 3):
        return ()
    from forwardpass.pixels import encode_png

    return [encode_png(np.asarray(image)) for image in samples[:_MOST_PICTURES]]


def _table(headings: Sequence[str], lines: Sequence[str], more: int, what: str) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rest = f"<div>and {more} more {what}</div>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
