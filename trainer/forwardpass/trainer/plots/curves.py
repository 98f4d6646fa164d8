"""How training went."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png

# Metrics whose names are no words.
_WORDS = {
    "area_under_roc": "area under the ROC curve",
    "explained": "share of the variance explained",
    "r2": "R squared",
}


def learning_curves(history: Sequence[Mapping[str, float]], metric: str) -> bytes:
    """Draws the losses, and the validation metric, after each epoch.

    Args:
        history: What `fit` returned.
        metric: The metric's name, such as "accuracy".
    """
    epochs = range(1, len(history) + 1)
    with drawing(9, 3.6) as figure:
        losses, metrics = figure.subplots(1, 2)
        for name, colour in (("train", TRAIN), ("validation", VALIDATION)):
            values = [epoch[f"{name}_loss"] for epoch in history]
            losses.plot(epochs, values, color=colour, marker="o", markersize=3, label=name)
        losses.set(title="Loss", xlabel="epoch", ylabel="mean loss an example", yscale="log")
        losses.legend()
        values = [epoch[f"validation_{metric}"] for epoch in history]
        metrics.plot(epochs, values, color=VALIDATION, marker="o", markersize=3)
        name = _WORDS.get(metric, metric)
        metrics.set(
            title=f"{name[0].upper()}{name[1:]}, at best {max(values):.4f}",
            xlabel="epoch",
            ylabel=f"validation {name}",
        )
        for axes in (losses, metrics):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_png(figure)


def adversarial_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """Draws the mean losses of a generator and its discriminator over each round.

    Args:
        history: Rounds with "generator_loss" and "discriminator_loss", as `play` returns them.
    """
    rounds = range(1, len(history) + 1)
    # A discriminator that can but guess gives odds of 1 to 1 to everything.
    players = (("generator", TRAIN, math.log(2)), ("discriminator", VALIDATION, 2 * math.log(2)))
    with drawing(7, 3.8) as figure:
        axes = figure.subplots()
        for name, colour, guessed in players:
            values = [each[f"{name}_loss"] for each in history]
            axes.plot(rounds, values, color=colour, marker="o", markersize=3, label=name)
            axes.axhline(guessed, color=colour, linestyle=":", linewidth=1)
        axes.set(
            title="Neither should win: losses of the two players\n"
            "(dotted: where the discriminator can but guess)",
            xlabel="round of up to 750 steps",
            ylabel="mean loss a batch, in nats",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return to_png(figure)


def loss_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    unit: str,
    judged: str = "validation",
) -> bytes:
    """Draws the losses after each epoch of several models, side by side.

    Args:
        histories: What `fit` returned for each, by what its panel is called.
        unit: What is counted on the vertical axes.
        judged: What the rows are called that each epoch was judged on.
    """
    with drawing(3.6 * len(histories) + 0.6, 3.6) as figure:
        panels = figure.subplots(1, len(histories), squeeze=False)[0]
        for axes, (name, history) in zip(panels, histories.items(), strict=True):
            epochs = range(1, len(history) + 1)
            for key, label, colour in (
                ("train_loss", "train", TRAIN),
                ("validation_loss", judged, VALIDATION),
            ):
                axes.plot(epochs, [epoch[key] for epoch in history], color=colour, label=label)
            axes.set(title=name, xlabel="epoch", ylabel=unit)
            low, high = axes.dataLim.intervaly
            if high > 30 * low:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        return to_png(figure)
