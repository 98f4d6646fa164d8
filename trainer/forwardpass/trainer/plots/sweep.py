"""How the points of a grid of settings did."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from forwardpass.trainer.plots.canvas import VALIDATION, drawing, to_png
from forwardpass.trainer.training.fitted import Fitted


def sweep_curves(labels: Sequence[str], fits: Sequence[Fitted | None], best: int) -> bytes:
    """Draws each point's best validation metric, and its validation loss after each epoch.

    Args:
        labels: What each point's settings are.
        fits: How each did; None where training diverged. At least one did not.
        best: Which one was chosen.
    """
    ended = [(index, fitted) for index, fitted in enumerate(fits) if fitted is not None]
    chosen = dict(ended)[best]
    colours = mpl.colormaps["viridis"]
    with drawing(11, 2.4 + 0.3 * len(labels)) as figure:
        scores, losses = figure.subplots(1, 2)
        for index, fitted in ended:
            colour = VALIDATION if index == best else colours(index / len(labels))
            style = {"color": colour, "marker": "o", "markersize": 4}
            scores.plot(fitted.score, index, **style)
            values = [epoch["validation_loss"] for epoch in fitted.history]
            epochs = range(1, len(values) + 1)
            width = 2.2 if index == best else 1.2
            losses.plot(epochs, values, linewidth=width, label=labels[index], **style)
        scores.set_yticks(
            range(len(labels)),
            [
                label if fitted is not None else f"{label} (diverged)"
                for label, fitted in zip(labels, fits, strict=True)
            ],
        )
        scores.set(
            title=f"Best: {labels[best]} ({chosen.score:.4f})",
            xlabel=f"validation {chosen.metric} after the best epoch",
            ylim=(len(labels) - 0.5, -0.5),
        )
        losses.set(
            title="Loss on the validation rows",
            xlabel="epoch",
            ylabel="mean loss an example",
            yscale="log",
        )
        losses.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        return to_png(figure)
