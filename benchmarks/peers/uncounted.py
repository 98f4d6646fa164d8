"""Our server without its counting: `python -m benchmarks.peers.uncounted ARGUMENTS`.

The product has no such switch. Here the methods that count on the hot path do nothing; everything
around them, such as looking at the clock, stays.
"""

import sys

from forwardpass.server.cli import main
from forwardpass.server.metrics import counters
from forwardpass.server.metrics.counters import MethodCounters, ModelCounters
from forwardpass.server.metrics.numbers import Histogram, Total

COUNTING = {
    Total: ("add",),
    Histogram: ("observe",),
    ModelCounters: ("ran", "answered", "ended"),
    MethodCounters: ("ended",),
}


def _nothing(*_: object, **__: object) -> None:
    """Counts nothing."""


class Uncounted:
    """Stands for a `Count`."""

    value = 0
    add = int


if __name__ == "__main__":
    for kind, names in COUNTING.items():
        for name in names:
            if not callable(getattr(kind, name, None)):
                sys.exit(f"{kind.__name__}.{name} is not there any more: COUNTING is out of date")
            setattr(kind, name, _nothing)
    counters.Count = Uncounted  # type: ignore[attr-defined, assignment]  # on purpose
    main()
