"""One look for every plot, drawn without a display and without pyplot's global state."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito); train and validation have the same two everywhere.
TRAIN, VALIDATION = "#0072B2", "#D55E00"
# Several things beside one another, and two classes on the purple and orange of a filled plane.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
CLASSES = ("#542788", "#E66101")

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """Gives an empty figure of so many inches, at 120 pixels an inch, to draw on within."""
    with mpl.rc_context():
        # A matplotlibrc of the user's may say that TeX is to set the text, or that all is huge.
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield Figure((width, height), dpi=120, layout="constrained")


def to_png(drawn: Figure) -> bytes:
    """Returns the figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The names of classes may be in a script that the font lacks: then boxes are drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
