"""Sunspots a year, 1700 to 2008, from the CSV file in the PyPI package statsmodels.

The package is downloaded and read as a zip archive; its code is neither installed nor run.
"""

from pathlib import Path

import numpy as np

from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.data.series import Series, read_csv
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="statsmodels==0.15.0",
    file="statsmodels-0.15.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    sha256="b67886b66d9c7ca118526accedb5c6de7ffd74c015dc0492ea0b1690192b65da",
)
_FIRST = 1700
# The last four cycles of about 11 years.
_TEST, _VALIDATION = 44, 44


def load(cache: Path, reporter: Reporter, _: int = 0) -> Series:
    """Returns the mean number of sunspots of 309 years, of which the last 44 are measured on.

    Args:
        cache: Where the wheel is kept.
        reporter: Where fetching is told.

    Raises:
        DataError: It cannot be fetched.
    """
    wheel = fetch(WHEEL, cache, reporter)
    ((_name, content),) = members(wheel, "statsmodels/datasets/sunspots/sunspots.csv")
    values = read_csv(content)
    return Series(
        name="sunspots",
        origin=WHEEL.requirement,
        license="public domain",
        years=np.arange(_FIRST, _FIRST + len(values), dtype=np.float32),
        values=values,
        season=11,
        ticks=50,
        validation=_VALIDATION,
        test=_TEST,
    )
