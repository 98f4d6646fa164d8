"""What a network of two inputs and two hidden units does with the plane."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png

Floats = NDArray[np.float32]


def decision_boundary(xs: Floats, values: Floats, points: Floats, targets: Floats) -> bytes:
    """Draws a function of the plane, and the line where it crosses one half.

    Args:
        xs: The coordinates, the same on both axes (k).
        values: The function at each (x1, x2), x2 along axis 0 (k, k).
        points: The training inputs (n, 2).
        targets: 0 or 1 for each (n).
    """
    with drawing(6, 4.8) as figure:
        axes = figure.subplots()
        filled = axes.contourf(
            xs, xs, np.clip(values, -0.5, 1.5), np.linspace(-0.5, 1.5, 41), cmap="PuOr_r"
        )
        axes.contour(xs, xs, values, [0.5], colors="black", linewidths=1.2)
        _mark(axes, points, targets)
        axes.set(
            title="What the network answers; the line is one half",
            xlabel="$x_1$",
            ylabel="$x_2$",
            aspect="equal",
        )
        figure.colorbar(filled, label="f(x), cut at -0.5 and 1.5")
        return to_png(figure)


def hidden_space(hidden: Floats, targets: Floats, weights: Floats, bias: float) -> bytes:
    """Draws the points where the hidden layer puts them, and the line that tells them apart there.

    Args:
        hidden: After the ReLU (n, 2).
        targets: 0 or 1 for each (n).
        weights: Of the output layer (2).
        bias: Of the output layer.
    """
    with drawing(5.4, 4.8) as figure:
        axes = figure.subplots()
        _mark(axes, hidden, targets)
        low, high = hidden.min(axis=0), hidden.max(axis=0)
        pad = 0.15 * (high - low).max() + 0.05
        # Along w . h + b = 1/2, solved for the unit with the greater weight.
        h = np.linspace(low.min() - pad, high.max() + pad, 2)
        if abs(weights[1]) >= abs(weights[0]):
            axes.plot(h, (0.5 - bias - weights[0] * h) / weights[1], color="black", linewidth=1.2)
        else:
            axes.plot((0.5 - bias - weights[1] * h) / weights[0], h, color="black", linewidth=1.2)
        axes.set(
            title="In the hidden layer one line is enough",
            xlabel="$h_1$",
            ylabel="$h_2$",
            xlim=(low[0] - pad, high[0] + pad),
            ylim=(low[1] - pad, high[1] + pad),
        )
        return to_png(figure)


def _mark(axes: Axes, points: Floats, targets: Floats) -> None:
    for value, colour, shape in ((0, TRAIN, "o"), (1, VALIDATION, "s")):
        own = points[targets == value]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=90,
            color=colour,
            marker=shape,
            edgecolors="white",
            zorder=3,
            label=f"target {value}",
        )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
