"""How training went."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png


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
        metrics.set(
            title=f"{metric.capitalize()}, at best {max(values):.4f}",
            xlabel="epoch",
            ylabel=f"validation {metric}",
        )
        for axes in (losses, metrics):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_png(figure)


def adversarial_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """Draws the mean losses of a generator and its discriminator over each epoch.

    Args:
        history: Epochs with "generator_loss" and "discriminator_loss".
    """
    epochs = range(1, len(history) + 1)
    with drawing(7, 3.8) as figure:
        axes = figure.subplots()
        for name, colour in (("generator", TRAIN), ("discriminator", VALIDATION)):
            values = [epoch[f"{name}_loss"] for epoch in history]
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=name)
        axes.set(
            title="Neither should win: losses of the two players",
            xlabel="epoch",
            ylabel="mean hinge loss a batch",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return to_png(figure)
