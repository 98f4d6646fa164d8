"""What is compared under h2load: who is asked what, and the rate of each round."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.load import Target, closed_loop

# How long one measurement takes, in seconds, and the calls that find out how many that is.
_SECONDS, _TRIAL = 0.75, 200


@dataclass
class Competitor:
    """Who is measured at what, and the rate of each round.

    Attributes:
        name: What the table calls it.
        target: What it is asked.
        in_flight: How many calls at a time.
        calls: How many take about _SECONDS; at first, how many it takes to find that out.
        rates: Answers per second, of each round.
    """

    name: str
    target: Target
    in_flight: int
    calls: int = _TRIAL
    rates: list[float] = field(default_factory=list)

    def calibrate(self) -> None:
        """Finds out how many calls to measure."""
        self.calls = max(self.calls, round(_SECONDS * self._rate() / self.target.requests))

    def measure(self) -> None:
        """Measures the rate once."""
        self.rates.append(self._rate())

    def _rate(self) -> float:
        return closed_loop(self.target, self.in_flight, self.calls).rate


def measure_all(groups: Iterable[Sequence[Competitor]], rounds: int) -> None:
    """Measures every group in each round, after finding out how many calls that takes."""
    groups = list(groups)
    for group in groups:
        for one in group:
            one.calibrate()
    for number in range(rounds):
        for group in groups:
            measure_round(number, group)


def measure_round(number: int, competitors: Sequence[Competitor]) -> None:
    """Measures everybody once, in an order in which nobody is always the first."""
    turn = number % len(competitors)
    for one in (*competitors[turn:], *competitors[:turn]):
        one.measure()
