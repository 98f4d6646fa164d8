"""Kernels, and what they make of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from forwardpass.trainer.plots.canvas import drawing, to_png

Kernel = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, eq=False)
class FirstLayer:
    """What the first convolution of a network has learned.

    Attributes:
        kernels: (filters, height, width).
        image: uint8 (h, w), light on black.
        activations: What the filters make of the image, after the ReLU: (filters, h', w').
    """

    kernels: NDArray[np.float32]
    image: NDArray[np.uint8]
    activations: NDArray[np.float32]


def filtered_pictures(
    kernels: Mapping[str, Kernel],
    pictures: Mapping[str, NDArray[np.uint8]],
    learned: FirstLayer | None,
) -> bytes:
    """Draws each kernel over what it makes of some pictures, and learned kernels below.

    Args:
        kernels: By name.
        pictures: For each kernel, by name, the filtered pictures: uint8 (n, h, w, 3).
        learned: To be compared with; None draws the fixed ones alone.
    """
    with drawing(11, 8 if learned else 5) as figure:
        heights = [5.0, 3.0] if learned else [1.0]
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _draw_fixed(parts[0], kernels, pictures)
        if learned:
            _draw_learned(parts[1], learned)
        return to_png(figure)


def _draw_fixed(
    part: FigureBase,
    kernels: Mapping[str, Kernel],
    pictures: Mapping[str, NDArray[np.uint8]],
) -> None:
    part.suptitle("Filters that somebody wrote down", fontsize=12)
    rows = len(next(iter(pictures.values())))
    panels = part.subplots(rows, len(kernels), squeeze=False)
    for column, (name, kernel) in enumerate(kernels.items()):
        title = f"{name.replace('_', ' ')}\n{_text(kernel)}"
        panels[0, column].set_title(title, fontsize=9, family="monospace")
        for axes, picture in zip(panels[:, column], pictures[name], strict=True):
            _show(axes, picture)


def _draw_learned(part: FigureBase, learned: FirstLayer) -> None:
    part.suptitle("Filters that mnist-cnn has learned, and where they answer", fontsize=12)
    panels = part.subplots(2, 1 + len(learned.kernels), squeeze=False)
    panels[0, 0].set_axis_off()
    _show(panels[1, 0], learned.image, cmap="gray_r")
    bound = float(np.abs(learned.kernels).max())
    for index, (kernel, map_) in enumerate(
        zip(learned.kernels, learned.activations, strict=True), start=1
    ):
        _show(panels[0, index], kernel, cmap="RdBu_r", vmin=-bound, vmax=bound)
        _show(panels[1, index], map_, cmap="gray_r")


def _show(axes: Axes, image: NDArray[np.generic], **style: object) -> None:
    axes.imshow(image, **style)  # type: ignore[arg-type] # a colour map and its range
    axes.set_xticks([])
    axes.set_yticks([])


def _text(kernel: Kernel) -> str:
    """Returns the numbers in rows, in sixteenths where some are no whole numbers."""
    numbers = np.array(kernel)
    whole = bool((numbers == numbers.round()).all())
    rows = (numbers if whole else numbers * 16).astype(int)
    text = "\n".join(" ".join(f"{number:2}" for number in row) for row in rows)
    return text if whole else f"{text}\n(sixteenths)"
