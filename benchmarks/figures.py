"""Figures of two builds, and whether the one falls short of the other."""

from dataclasses import dataclass, field
from statistics import median

from benchmarks.report import Ratio, ratio_of

# A ratio below this is a loss that is not put up with.
LEAST = 0.97


@dataclass(frozen=True)
class Unit:
    """What a figure counts.

    Attributes:
        form: Writes a value.
        less_is_better: As of seconds and memory.
    """

    form: str
    less_is_better: bool = False


RATE = Unit("{:,.0f}/s")
SECONDS = Unit("{:.2f} s", less_is_better=True)
MEMORY = Unit("{:.1f} MB", less_is_better=True)


@dataclass
class Figure:
    """A figure of both builds.

    Attributes:
        what: What was measured.
        unit: What it counts.
        base: Of the base, in each round.
        current: Of the current build, likewise.
    """

    what: str
    unit: Unit
    base: list[float] = field(default_factory=list)
    current: list[float] = field(default_factory=list)

    def add(self, base: float, current: float) -> None:
        """Adds what a round found."""
        self.base.append(base)
        self.current.append(current)

    def ratio(self) -> Ratio:
        """Returns how much better the current build is: above 1 it is, whatever the unit."""
        if self.unit.less_is_better:
            return ratio_of(self.base, self.current)
        return ratio_of(self.current, self.base)

    def falls_short(self) -> bool:
        """Tells whether the current build is worse beyond doubt: by its whole interval."""
        return self.ratio().high < LEAST

    def cells(self) -> list[str]:
        """Returns the row of the table."""
        return [
            self.what,
            self.unit.form.format(median(self.base)),
            self.unit.form.format(median(self.current)),
            self.ratio().told(3),
            "FALLS SHORT" if self.falls_short() else "",
        ]
