"""What single neurons do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from forwardpass.trainer.plots.canvas import SERIES, drawing, to_png
from forwardpass.wire import Array

Floats = NDArray[np.float64]

# The activation functions of the course, with what is written over them.
_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "identity: a = z": lambda z: z,
    "ReLU: a = max(0, z)": lambda z: np.maximum(z, 0),
    "sigmoid: a = 1 / (1 + e$^{-z}$)": lambda z: 1 / (1 + np.exp(-z)),
    "tanh: a = 2 / (1 + e$^{-2z}$) - 1": np.tanh,
}


@dataclass(frozen=True, slots=True)
class Neuron:
    """A neuron of two inputs: z = w . x + b.

    Attributes:
        weights: w (2).
        bias: b.
        names: What the inputs are called, with their units.
        low: The least of each input that is drawn (2).
        high: The greatest (2).
    """

    weights: Floats
    bias: float
    names: tuple[str, str]
    low: Floats
    high: Floats


def activations(neuron: Neuron) -> bytes:
    """Draws the four activation functions, and below what each makes of the same neuron's sum."""
    z = np.linspace(-4, 4, 161)
    first, second = (np.linspace(neuron.low[i], neuron.high[i], 121) for i in range(2))
    sums = neuron.weights[0] * first + neuron.weights[1] * second[:, None] + neuron.bias
    with drawing(13, 6) as figure:
        panels = figure.subplots(2, len(_FUNCTIONS))
        for (top, below), (name, function) in zip(panels.T, _FUNCTIONS.items(), strict=True):
            top.plot(z, function(z), color=SERIES[0], linewidth=2)
            top.set(title=name, xlabel="sum z", ylim=(-4.2, 4.2) if "max" in name else None)
            filled = below.contourf(first, second, function(sums), 30, cmap="viridis")
            below.contour(first, second, sums, [0], colors="white", linewidths=1.2)
            below.set(xlabel=neuron.names[0])
            figure.colorbar(filled, ax=below, label="a", format="%.1f")
        panels[0, 0].set(ylabel="activation a")
        panels[1, 0].set(ylabel=neuron.names[1])
        figure.suptitle(
            "Activation functions, and what one neuron answers with each; "
            "along the white line z = w$_1$x$_1$ + w$_2$x$_2$ + b is 0"
        )
        return to_png(figure)


def answers_of_units(answers: Mapping[str, Array], targets: Array, species: Sequence[str]) -> bytes:
    """Draws the four output units' answers for test rows beside what was measured.

    Args:
        answers: "carbon", "mass" and "male" (n, 1), and "species" (n, classes).
        targets: Of each, in that order, classes as indices (n, 4).
        species: The name of each class.
    """
    with drawing(11, 9) as figure:
        panels = figure.subplots(2, 2)
        _draw_agreement(panels[0, 0], answers["carbon"][:, 0], targets[:, 0])
        panels[0, 0].set(
            title="Identity: any number",
            xlabel="measured carbon-13, permille from the standard",
            ylabel="answered",
        )
        _draw_agreement(panels[0, 1], answers["mass"][:, 0], targets[:, 1])
        panels[0, 1].set(
            title="ReLU: never negative", xlabel="measured mass, kg", ylabel="answered"
        )
        _draw_sigmoid(panels[1, 0], answers["male"][:, 0], targets[:, 2])
        _draw_shares(panels[1, 1], answers["species"], targets[:, 3].astype(int), species)
        return to_png(figure)


def _draw_agreement(axes: Axes, answered: Array, measured: Array) -> None:
    axes.scatter(measured, answered, s=22, color=SERIES[0], alpha=0.7, linewidths=0)
    ends = [measured.min(), measured.max()]
    axes.plot(ends, ends, color="black", linewidth=1, label="where they would agree")
    axes.legend()


def _draw_sigmoid(axes: Axes, probabilities: Array, male: Array) -> None:
    # The sigmoid's inverse gives back the sums.
    sums = np.log(probabilities / (1 - probabilities))
    z = np.linspace(min(sums.min(), -4), max(sums.max(), 4), 161)
    axes.plot(z, 1 / (1 + np.exp(-z)), color="black", linewidth=1)
    for value, name, shape in ((0, "female", "o"), (1, "male", "s")):
        own = male == value
        axes.scatter(
            sums[own],
            probabilities[own],
            s=26,
            alpha=0.7,
            linewidths=0,
            color=SERIES[value],
            marker=shape,
            label=name,
        )
    axes.axhline(0.5, color="#888888", linewidth=1, linestyle="--")
    axes.set(title="Sigmoid: one probability", xlabel="sum z", ylabel="probability of male")
    axes.legend(title="is")


def _draw_shares(axes: Axes, probabilities: Array, species: Array, names: Sequence[str]) -> None:
    # Each species' birds together, the surest first.
    order = np.lexsort((-probabilities[np.arange(len(species)), species], species))
    bottom = np.zeros(len(order))
    for index, name in enumerate(names):
        height = probabilities[order, index]
        axes.bar(
            np.arange(len(order)), height, width=1, bottom=bottom, color=SERIES[index], label=name
        )
        bottom += height
    for edge in np.cumsum(np.bincount(species))[:-1]:
        axes.axvline(edge - 0.5, color="black", linewidth=1)
    axes.set(
        title="Softmax: probabilities that sum to 1",
        xlabel="test penguins, grouped by what they are, the surest first",
        ylabel="probability",
        xlim=(-0.5, len(order) - 0.5),
        ylim=(0, 1),
    )
    axes.legend(title="answered", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
