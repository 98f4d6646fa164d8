"""What a network of two inputs does with the plane."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from numpy.typing import NDArray

from forwardpass.trainer.data.dataset import Split
from forwardpass.trainer.plots.canvas import CLASSES, TRAIN, VALIDATION, drawing, to_png

Floats = NDArray[np.float32]
# Of a plane around the points of a truth table, and of what is answered there.
_TICKS = (-0.5, 0, 0.5, 1, 1.5)
# How near points are that get one label, as a share of the extent of all.
_TOGETHER = 0.1


class Plane:
    """The points of a square grid around the origin.

    Attributes:
        xs: The coordinates, the same on both axes (k).
        points: All of them, row by row (k * k, 2).
    """

    def __init__(self, extent: float, count: int = 121) -> None:
        self.xs = np.linspace(-extent, extent, count, dtype=np.float32)
        self.points = np.stack(np.meshgrid(self.xs, self.xs), axis=-1).reshape(-1, 2)

    def fill(self, axes: Axes, values: Floats) -> QuadContourSet:
        """Draws a function of the points, cut at -1 and 1: (k * k)."""
        square = np.clip(values.reshape(len(self.xs), -1), -1, 1)
        levels = np.linspace(-1, 1, 41)
        # Paler than the map goes, so that points are seen on it.
        filled = axes.contourf(self.xs, self.xs, square, levels, cmap="PuOr_r", vmin=-1.6, vmax=1.6)
        axes.set_aspect("equal")
        return filled


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
            xticks=_TICKS,
            yticks=_TICKS,
        )
        figure.colorbar(filled, label="f(x), cut at -0.5 and 1.5", ticks=_TICKS)
        return to_png(figure)


def points_and_boundary(plane: Plane, values: Floats, train: Split, test: Split) -> bytes:
    """Draws a function of the plane, the line where it is 0, and the points that it is to tell.

    Args:
        plane: Where the function was asked.
        values: What it answered (k * k, 1).
        train: Points (n, 2), and -1 or 1 for each (n, 1).
        test: Likewise.
    """
    with drawing(6.6, 5.4) as figure:
        axes = figure.subplots()
        filled = plane.fill(axes, values)
        if values.min() < 0 < values.max():
            square = values.reshape(len(plane.xs), -1)
            axes.contour(plane.xs, plane.xs, square, [0], colors="black", linewidths=1.2)
        for name, split, shape, edge in (
            ("train", train, "o", "white"),
            ("test", test, "s", "black"),
        ):
            for value, colour in ((-1, CLASSES[0]), (1, CLASSES[1])):
                own = split.inputs[split.targets[:, 0] == value]
                axes.scatter(
                    own[:, 0],
                    own[:, 1],
                    s=22,
                    color=colour,
                    marker=shape,
                    edgecolors=edge,
                    linewidths=0.6,
                    label=f"{name}, class {value}",
                )
        axes.set(
            title="What the network answers; the line is 0",
            xlabel="$x_1$",
            ylabel="$x_2$",
            xlim=(plane.xs[0], plane.xs[-1]),
            ylim=(plane.xs[0], plane.xs[-1]),
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, handletextpad=0.1)
        figure.colorbar(filled, label="f(x)", ticks=[-1, -0.5, 0, 0.5, 1], shrink=0.8)
        return to_png(figure)


def hidden_units(plane: Plane, layers: Sequence[Floats]) -> bytes:
    """Draws what each unit of each hidden layer answers over the plane, a row a layer.

    Args:
        plane: Where they were asked.
        layers: What the units of each layer answered after their activation (k * k, units); at
            least one layer.
    """
    columns = max(layer.shape[1] for layer in layers)
    with drawing(max(1.5 * columns + 1.2, 4), 1.7 * len(layers) + 0.5) as figure:
        panels = figure.subplots(len(layers), columns, squeeze=False)
        for axes in panels.ravel():
            axes.set_axis_off()
        for row, layer in enumerate(layers):
            for unit, values in enumerate(layer.T):
                axes = panels[row, unit]
                filled = plane.fill(axes, values)
                axes.set_title(f"layer {row + 1}, unit {unit + 1}", fontsize=8)
        figure.suptitle("What each hidden unit answers", fontsize=11)
        figure.colorbar(
            filled, ax=panels.ravel().tolist(), label="cut at -1 and 1", ticks=[-1, 0, 1]
        )
        return to_png(figure)


def hidden_space(
    points: Floats, hidden: Floats, targets: Floats, weights: Floats, bias: float
) -> bytes:
    """Draws the points where the hidden layer puts them, and the line that tells them apart there.

    Args:
        points: The inputs (n, 2), which the labels name; those that are put together share one.
        hidden: After the ReLU (n, 2).
        targets: 0 or 1 for each (n).
        weights: Of the output layer (2).
        bias: Of the output layer.
    """
    with drawing(5.4, 4.8) as figure:
        axes = figure.subplots()
        _mark(axes, hidden, targets)
        for place, text in point_labels(points, hidden):
            axes.annotate(
                text,
                place,
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                va="bottom",
                linespacing=1.3,
                # Pale, so that a line behind it does not run through the text.
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "lw": 0},
                zorder=4,
            )
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


def point_labels(points: Floats, places: Floats) -> list[tuple[tuple[float, float], str]]:
    """Returns where to write what: the points that are put together share a label of a line each.

    Args:
        points: (n, 2).
        places: Where each is put (n, 2).
    """
    near = _TOGETHER * float((places.max(axis=0) - places.min(axis=0)).max())
    left = list(range(len(points)))
    labels = []
    while left:
        first = places[left[0]]
        here = [index for index in left if np.abs(places[index] - first).max() <= near]
        left = [index for index in left if index not in here]
        text = "\n".join(f"({points[index, 0]:g}, {points[index, 1]:g})" for index in here)
        x, y = places[here].mean(axis=0)
        labels.append(((float(x), float(y)), text))
    return labels


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
