"""Images, filters and mistakes, as pictures."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forwardpass.pixels import encode_png, image_grid
from forwardpass.trainer.plots.canvas import VALIDATION, drawing, to_png

# How many mistakes are drawn at most, and how many in a row.
_MISTAKES, _COLUMNS = 24, 8


def sample_grid(images: NDArray[np.uint8], columns: int, scale: int = 2) -> bytes:
    """Lays images out in a grid, each pixel drawn `scale` pixels wide.

    Args:
        images: uint8 (n, height, width, channels).
        columns: Images in a row.
        scale: At least 1.
    """
    grid = image_grid(images, columns)
    return encode_png(grid.repeat(scale, axis=0).repeat(scale, axis=1))


def rows_of_images(
    images: NDArray[np.uint8], labels: Sequence[str], title: str, across: str
) -> bytes:
    """Draws rows of images, each with its name in front.

    Args:
        images: uint8 (rows, columns, height, width, 1 or 3).
        labels: Of each row.
        title: What is to be seen.
        across: What changes, or what is the same, along a row.
    """
    rows, columns, *shape = images.shape
    grid = image_grid(images.reshape(-1, *shape), columns)
    with drawing(0.55 * columns + 1, 0.55 * rows + 0.9) as figure:
        axes = figure.subplots()
        axes.imshow(grid, cmap="gray", vmin=0, vmax=255)
        axes.set_yticks((np.arange(rows) + 0.5) * grid.shape[0] / rows, labels)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.set(title=title, xlabel=across)
        return to_png(figure)


def worst_mistakes(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    true: NDArray[np.int64],
    labels: Sequence[str],
) -> bytes:
    """Draws the test images that were mistaken, at most 24: those whose true class was given the
    least probability. Where none was, the picture says so.

    Args:
        images: uint8 (n, height, width, 1 or 3).
        probabilities: (n, classes).
        true: Class indices (n).
        labels: The name of each class.
    """
    given = probabilities[np.arange(len(true)), true]
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != true)
    worst = mistakes[np.argsort(given[mistakes], kind="stable")[:_MISTAKES]]
    rows = -(-len(worst) // _COLUMNS)
    with drawing(10.5, 0.5 + 1.7 * rows) as figure:
        figure.suptitle(_how_many(len(worst), len(mistakes), len(true)))
        if not rows:
            return to_png(figure)
        panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, index in zip(panels, worst, strict=False):
            # The map of colours, dark ink on paper, is for greyscale alone.
            axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
            guess = int(probabilities[index].argmax())
            axes.set_title(
                f"is {labels[true[index]]}: {given[index]:.0%}\n"
                f"said {labels[guess]}: {probabilities[index, guess]:.0%}",
                fontsize=8,
                # Names of one's own may have dollars in them.
                parse_math=False,
            )
        return to_png(figure)


def _how_many(shown: int, mistakes: int, examples: int) -> str:
    """Returns the title of a picture of mistakes."""
    if not mistakes:
        return f"No mistake in {examples:,} test examples"
    which = "The only mistake" if mistakes == 1 else f"All {mistakes} mistakes"
    if shown < mistakes:
        which = f"{shown} of {mistakes:,} mistakes"
    return f"{which} in {examples:,} test examples, least probability of the true class first"


def first_layer_filters(weights: NDArray[np.float32]) -> bytes:
    """Draws the kernels of a first convolution, at most eight in a row.

    Of one channel, blue is negative and red positive. Of three, each is drawn as the colours that
    it answers to, grey where its weight is 0.

    Args:
        weights: (filters, 1 or 3, height, width).
    """
    bound = float(np.abs(weights).max())
    rows = math.ceil(len(weights) / 8)
    columns = math.ceil(len(weights) / rows)
    with drawing(1.4 * columns + 1.2, 1.5 * rows + 0.7) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(weights) :]:
            axes.set_axis_off()
        for number, (axes, kernel) in enumerate(zip(panels, weights, strict=False)):
            if len(kernel) == 1:
                image = axes.imshow(kernel[0], cmap="RdBu_r", vmin=-bound, vmax=bound)
            else:
                axes.imshow(0.5 + kernel.transpose(1, 2, 0) / (2 * bound))
            axes.set_title(f"filter {number + 1}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        figure.suptitle("Kernels of the first convolution", fontsize=11)
        if weights.shape[1] == 1:
            figure.colorbar(image, ax=panels.tolist(), label="weight")
        return to_png(figure)


def best_guesses(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    true: NDArray[np.int64],
    labels: Sequence[str],
) -> bytes:
    """Draws colour images with the most probable class of each, in red where it is another one.

    Args:
        images: uint8 (n, height, width, 3).
        probabilities: (n, classes).
        true: Class indices (n).
        labels: The name of each class.
    """
    columns = 5
    rows = -(-len(images) // columns)
    with drawing(2.2 * columns, 2.6 * rows + 0.4) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        right = probabilities.argmax(axis=1) == true
        for axes, image, row, index, hit in zip(
            panels, images, probabilities, true, right, strict=False
        ):
            axes.imshow(image)
            truth = "" if hit else f"\nis {labels[index]}"
            axes.set_title(
                f"{labels[row.argmax()]} {row.max():.0%}{truth}",
                fontsize=9,
                color="#333333" if hit else VALIDATION,
            )
        figure.suptitle(f"Most probable class of {len(images)} photographs, {right.sum()} right")
        return to_png(figure)
