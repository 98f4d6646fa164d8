"""How near answers that are numbers come to what is true."""

from collections.abc import Mapping

import numpy as np

from forwardpass.trainer.plots.canvas import SERIES, TRAIN, drawing, to_png
from forwardpass.wire import Array

# More points could not be told apart.
_POINTS = 2000


def answers_and_truth(answers: Array, truth: Array, errors: Mapping[str, float]) -> bytes:
    """Draws each answer over what is true, and beside it how far off others are.

    Args:
        answers: Of the test rows (n).
        truth: What they should be (n).
        errors: The root mean squared error of each model, by its name; the first is the answers'.
    """
    shown = np.linspace(0, len(truth) - 1, min(len(truth), _POINTS)).astype(int)
    with drawing(10, 4.4) as figure:
        points, bars = figure.subplots(1, 2)
        ends = [min(truth.min(), answers.min()), max(truth.max(), answers.max())]
        points.plot(ends, ends, color="#999999", linewidth=1, label="as it should be")
        points.scatter(truth[shown], answers[shown], s=10, color=TRAIN, linewidths=0)
        points.set(title="Test rows", xlabel="true value", ylabel="answer")
        points.legend(loc="upper left")
        places = np.arange(len(errors))
        drawn = bars.barh(places, list(errors.values()), color=SERIES[: len(errors)])
        bars.bar_label(drawn, [f"{error:.4g}" for error in errors.values()], padding=3)
        bars.set_yticks(places, list(errors))
        bars.invert_yaxis()
        bars.margins(x=0.2)
        bars.set(title="Error on the test rows", xlabel="root mean squared error")
        return to_png(figure)
