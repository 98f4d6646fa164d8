"""How much labelled data it takes."""

from collections.abc import Mapping, Sequence

from forwardpass.trainer.plots.canvas import drawing, to_png

# Colour-blind safe (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def accuracy_by_labels(
    curves: Mapping[str, Mapping[int, Sequence[float]]], guessing: float, title: str
) -> bytes:
    """Draws test accuracies against the number of labelled examples of each class.

    Args:
        curves: Of up to four kinds of features, by name: for each number of labels the accuracies
            of several draws. Lines join their means; bands reach from the least to the greatest.
        guessing: The accuracy of whoever always says the same class, in [0, 1).
        title: What is to be seen.
    """
    with drawing(7, 4.4) as figure:
        axes = figure.subplots()
        for colour, (name, curve) in zip(_COLOURS, curves.items(), strict=False):
            labels = list(curve)
            means = [sum(values) / len(values) for values in curve.values()]
            lows, highs = ([f(values) for values in curve.values()] for f in (min, max))
            axes.fill_between(labels, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.plot(labels, means, color=colour, marker="o", label=f"{name}: {means[-1]:.3f}")
        axes.axhline(guessing, color="#888888", linestyle=":", label=f"guessing: {guessing:.3f}")
        axes.set_xscale("log")
        axes.set_xticks(labels, [str(count) for count in labels])
        axes.minorticks_off()
        axes.set(
            title=title,
            xlabel="labelled examples of each class",
            ylabel="test accuracy",
            ylim=(0.9 * guessing, 1),
        )
        axes.legend(title="with all labels", loc="center left", bbox_to_anchor=(1, 0.5))
        return to_png(figure)
