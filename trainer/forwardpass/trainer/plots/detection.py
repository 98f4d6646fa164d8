"""How well detectors find what they look for, and by which words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png
from forwardpass.wire import Array

_COLOURS = ("#009E73", "#CC79A7", TRAIN)  # of the canvas' palette
# Those that ham is more like, and spam.
_HAM, _SPAM = TRAIN, VALIDATION
_WORDS = 25


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good a detector is at 0.5.

    Attributes:
        accuracy: Share of all that are told right.
        found: Share of spam that is called spam.
        lost: Share of ham that is called spam.
    """

    accuracy: float
    found: float
    lost: float


@dataclass(frozen=True, slots=True)
class Detector:
    """What something says of the test rows.

    Attributes:
        name: Such as "the network".
        scores: The probability of spam (n); 0 and 1 alone where it has no other.
    """

    name: str
    scores: Array

    def says(self, truth: Array) -> Verdict:
        """Compares with the classes (n), of which 1 is spam; both must be there."""
        called = self.scores > 0.5
        return Verdict(
            accuracy=float(np.mean(called == truth)),
            found=float(called[truth == 1].mean()),
            lost=float(called[truth == 0].mean()),
        )


def detectors_compared(
    detectors: Sequence[Detector], truth: Array, rules: Mapping[str, NDArray[np.bool_]]
) -> bytes:
    """Draws what each rule marks, and how much ham each detector loses for the spam it finds.

    Args:
        detectors: At most three.
        truth: Classes (n), of which 1 is spam.
        rules: Which of the rows each rule marks, by the rule's name.
    """
    with drawing(11.5, 5) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _draw_rules(left, truth, rules)
        for detector, colour in zip(detectors, _COLOURS, strict=False):
            verdict = detector.says(truth)
            label = f"{detector.name}: {verdict.accuracy:.1%} right"
            right.plot(verdict.lost, verdict.found, "o", color=colour, label=label, zorder=3)
            if len(np.unique(detector.scores)) > 2:
                lost, found, _ = roc_curve(truth, detector.scores, drop_intermediate=False)
                right.plot(lost, found, color=colour)
        right.set(
            title="Spam found, for ham lost",
            xlabel="share of ham that is called spam",
            ylabel="share of spam that is found",
            xlim=(-0.005, 0.3),
            ylim=(0.5, 1.01),
        )
        right.legend(title="dots: at a probability of 0.5", loc="lower right")
        return to_png(figure)


def _draw_rules(axes: Axes, truth: Array, rules: Mapping[str, NDArray[np.bool_]]) -> None:
    places = np.arange(len(rules) + 1)
    marked = [*rules.values(), np.any(list(rules.values()), axis=0)]
    for kind, name, colour, shift in ((1, "spam", _SPAM, -0.2), (0, "ham", _HAM, 0.2)):
        shares = [float(hits[truth == kind].mean()) for hits in marked]
        bars = axes.barh(places + shift, shares, 0.4, color=colour, label=name)
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=2, fontsize=7)
    axes.set_yticks(places, [*rules, "any of them"], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set(title="What each rule marks as spam", xlabel="share of the test e-mails")
    axes.legend(loc="center right")


def telling_words(words: Sequence[str], probabilities: Array) -> bytes:
    """Draws the words that say ham and spam most, by the logarithm of the odds.

    Args:
        words: The vocabulary.
        probabilities: Of spam, for a text of that word alone (words); above 0 and below 1.
    """
    odds = np.log(probabilities) - np.log1p(-probabilities)
    order = np.argsort(odds, kind="stable")
    with drawing(9, 6.4) as figure:
        panels = figure.subplots(1, 2)
        for axes, rows, kind, colour, sign in (
            (panels[0], order[:_WORDS], "ham", _HAM, -1),
            (panels[1], order[::-1][:_WORDS], "spam", _SPAM, 1),
        ):
            axes.barh(np.arange(len(rows)), sign * odds[rows], color=colour)
            axes.set_yticks(np.arange(len(rows)), [words[row] for row in rows], fontsize=9)
            axes.invert_yaxis()
            axes.set(
                title=f"Words that say {kind}",
                xlabel=f"log-odds of {kind} for a text of this word alone",
            )
        return to_png(figure)
