"""Which classes a model takes for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from forwardpass.trainer.plots.canvas import drawing, to_png

# Of more a picture shows nothing.
MAX_CLASSES = 40
# Letters of a class's name.
_LETTERS = 24


def confusion_matrix(
    predicted: NDArray[np.int64], true: NDArray[np.int64], labels: Sequence[str]
) -> bytes:
    """Draws the number of test examples of each true class that went to each predicted one.

    Args:
        predicted: Class indices (n).
        true: Class indices (n).
        labels: The name of each class.
    """
    count = len(labels)
    matrix = np.bincount(true * count + predicted, minlength=count**2).reshape(count, count)
    with drawing(6.2, 5.4) as figure:
        axes = figure.subplots()
        # A logarithmic scale, or a few mistakes beside a thousand hits could not be seen.
        image = axes.imshow(
            np.ma.masked_equal(matrix, 0),
            cmap="Blues",
            norm=LogNorm(1, max(2, int(matrix.max()))),
        )
        for row, column in np.argwhere(matrix):
            dark = matrix[row, column] > matrix.max() / 8
            axes.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#333333",
            )
        ticks = range(count)
        # Names are slanted, or long ones would run into one another.
        slant = 45 if max(map(len, labels)) > 3 else 0
        # As they are: two dollars would stand for mathematics.
        names = [_shortened(label) for label in labels]
        style = {"parse_math": False}
        axes.set_xticks(ticks, names, rotation=slant, ha="right" if slant else "center", **style)
        axes.set_yticks(ticks, names, **style)
        axes.grid(visible=False)
        right = matrix.trace() / matrix.sum()
        axes.set(
            title=f"{matrix.sum() - matrix.trace():,} mistakes in {matrix.sum():,} "
            f"test examples (accuracy {right:.4f})",
            xlabel="predicted class",
            ylabel="true class",
        )
        figure.colorbar(image, label="test examples", shrink=0.8)
        return to_png(figure)


def _shortened(label: str) -> str:
    return f"{label[: _LETTERS - 1]}…" if len(label) > _LETTERS else label
