"""Functions of one number that were fitted to points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from forwardpass.trainer.data.dataset import Split
from forwardpass.trainer.plots.canvas import SERIES, drawing, to_png
from forwardpass.wire import Array

_DAY, _TEMPERATURE = "day of the year", "highest temperature, °C"


@dataclass(frozen=True, slots=True)
class Course:
    """What came of one way to train.

    Attributes:
        values: What the function is in the end, over the days (k, 1).
        train: Root mean squared error of the rows that it learned from, in each epoch.
        validation: Of the rows that judged it, after each epoch.
    """

    values: Array
    train: Sequence[float]
    validation: Sequence[float]


def fitted(
    days: Array, curves: Mapping[str, Array], errors: Mapping[str, float], train: Split, test: Split
) -> bytes:
    """Draws functions over the points that they were fitted to, and those they were tested on.

    Args:
        days: Where the functions were asked (k, 1).
        curves: What each answered there, by its name (k, 1).
        errors: Of each on the test points, in degrees Celsius.
        train: Days and temperatures, each (n, 1).
        test: Likewise.
    """
    with drawing(9, 5) as figure:
        axes = figure.subplots()
        for name, split, colour, shape in (
            ("learned from", train, "#bbbbbb", "o"),
            ("tested on", test, "#666666", "x"),
        ):
            _scatter(axes, split, name, color=colour, marker=shape, s=12, linewidths=0.8)
        for (name, values), colour in zip(curves.items(), SERIES, strict=False):
            label = f"{name}: {errors[name]:.2f} °C"
            axes.plot(days, values, color=colour, linewidth=2.5, label=label)
        axes.set(
            title="Three functions through the same points, and the error of each on another year",
            xlabel=_DAY,
            ylabel=_TEMPERATURE,
        )
        axes.legend(loc="upper left")
        return to_png(figure)


def overfitting(days: Array, courses: Mapping[str, Course], few: Split, validation: Split) -> bytes:
    """Draws what becomes of a large network that learns from few points: its errors, its curve.

    Args:
        days: Where the functions were asked (k, 1).
        courses: Of each way to train, by its name.
        few: Days and temperatures that they learned from, each (n, 1).
        validation: Those that judged them.
    """
    with drawing(12, 5) as figure:
        errors, curves = figure.subplots(1, 2)
        _scatter(curves, validation, "judged by", color="#bbbbbb", s=10, linewidths=0)
        for (name, course), colour in zip(courses.items(), SERIES, strict=False):
            epochs = range(1, len(course.validation) + 1)
            errors.plot(epochs, course.train, color=colour, linestyle=":")
            errors.plot(epochs, course.validation, color=colour, label=name)
            curves.plot(days, course.values, color=colour, linewidth=2, label=name)
        _scatter(curves, few, "learned from", color="black", s=36, zorder=3)
        errors.set(
            title="Error of the days learned from (dotted) and of another year",
            xlabel="epoch",
            ylabel="root mean squared error, °C",
        )
        errors.xaxis.set_major_locator(MaxNLocator(integer=True))
        errors.legend()
        curves.set(title="The curves in the end", xlabel=_DAY, ylabel=_TEMPERATURE)
        curves.legend(loc="upper left")
        return to_png(figure)


def _scatter(axes: Axes, split: Split, name: str, **style: object) -> None:
    label = f"{len(split):,} days {name}"
    axes.scatter(split.inputs, split.targets, label=label, **style)  # type: ignore[arg-type] # style
