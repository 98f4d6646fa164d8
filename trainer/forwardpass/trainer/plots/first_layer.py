"""The first convolution of a network that sees colours, and what it answers to a photograph."""

import numpy as np
from numpy.typing import NDArray

from forwardpass.pixels import image_grid
from forwardpass.trainer.plots.canvas import drawing, to_png

Floats = NDArray[np.float32]


def colour_filters(kernels: Floats, photo: NDArray[np.uint8], activations: Floats) -> bytes:
    """Draws the kernels as the colours they look for, a photograph, and their answers to it.

    Each kernel, and each map of answers, has the full range of brightness to itself.

    Args:
        kernels: (filters, 3, height, width), red first.
        photo: uint8 (h, w, 3).
        activations: Of each filter, after the ReLU: (filters, h', w'). They stand where the
            kernels do.
    """
    columns = round(len(kernels) ** 0.5)
    colours = np.stack([_stretched(kernel.transpose(1, 2, 0)) for kernel in kernels])
    answers = np.stack([_stretched(map_[..., None]) for map_ in activations])
    extents = f"{kernels.shape[2]} x {kernels.shape[3]}"
    pictures = {
        f"Kernels of the first convolution, {extents}": image_grid(colours, columns, gap=1),
        "A photograph": photo,
        "Where each kernel answers it (dark: much)": image_grid(255 - answers, columns, gap=1),
    }
    with drawing(13, 5.2) as figure:
        panels = figure.subplots(1, 3, width_ratios=(1, 0.5, 1))
        for axes, (title, image) in zip(panels, pictures.items(), strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.set_axis_off()
        return to_png(figure)


def _stretched(values: Floats) -> NDArray[np.uint8]:
    """Returns the values moved and scaled to 0..255; equal ones become 0."""
    low, high = values.min(), values.max()
    levels: NDArray[np.uint8] = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(
        np.uint8
    )
    return levels
