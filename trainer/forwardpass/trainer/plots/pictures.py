"""Images, filters and mistakes, as pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forwardpass.pixels import encode_png, image_grid
from forwardpass.trainer.plots.canvas import drawing, to_png


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
        images: uint8 (rows, columns, height, width, 1).
        labels: Of each row.
        title: What is to be seen.
        across: What changes, or what is the same, along a row.
    """
    rows, columns, height, width, _ = images.shape
    grid = image_grid(images.reshape(-1, height, width, 1), columns)[..., 0]
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
    """Draws the 24 test images whose true class was given the least probability.

    Args:
        images: uint8 (n, height, width, 1).
        probabilities: (n, classes).
        true: Class indices (n).
        labels: The name of each class.
    """
    given = probabilities[np.arange(len(true)), true]
    worst = np.argsort(given, kind="stable")[:24]
    with drawing(9, 5) as figure:
        panels = figure.subplots(3, 8, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, index in zip(panels, worst, strict=False):
            axes.imshow(images[index, ..., 0], cmap="gray_r", vmin=0, vmax=255)
            guess = int(probabilities[index].argmax())
            axes.set_title(
                f"is {labels[true[index]]}: {given[index]:.0%}\n"
                f"said {labels[guess]}: {probabilities[index, guess]:.0%}",
                fontsize=8,
            )
        figure.suptitle("Least probability given to the true class")
        return to_png(figure)


def first_layer_filters(weights: NDArray[np.float32]) -> bytes:
    """Draws the kernels of a first convolution; blue is negative, red positive.

    Args:
        weights: (filters, 1, height, width).
    """
    bound = float(np.abs(weights).max())
    with drawing(1.4 * len(weights) + 1.2, 2.2) as figure:
        panels = figure.subplots(1, len(weights), squeeze=False).ravel()
        for number, (axes, kernel) in enumerate(zip(panels, weights, strict=True)):
            image = axes.imshow(kernel[0], cmap="RdBu_r", vmin=-bound, vmax=bound)
            axes.set_title(f"filter {number + 1}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        figure.suptitle("Kernels of the first convolution", fontsize=11)
        figure.colorbar(image, ax=panels.tolist(), label="weight")
        return to_png(figure)
