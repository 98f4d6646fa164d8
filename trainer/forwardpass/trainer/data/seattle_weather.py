"""Each day's highest temperature in Seattle, 2012 to 2015, from the PyPI package vega_datasets.

The figures are those of the National Oceanic and Atmospheric Administration.
"""

import csv
from datetime import date
from pathlib import Path

import numpy as np

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="vega_datasets==0.9.0",
    file="vega_datasets-0.9.0-py3-none-any.whl",
    sha256="3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
)
_MEMBER = "vega_datasets/_data/seattle-weather.csv"


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns the day of the year, 1 to 366, and its highest temperature in degrees Celsius.

    Both are float32 (rows, 1). 2012 and 2013 are to train on, 2014 to validate, 2015 to test:
    whole years, since the weather of a day is much like that of the day before.

    Args:
        cache: Where the package is kept.
        reporter: Where fetching is told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is another file.
    """
    wheel = fetch(WHEEL, cache, reporter)
    text = next(content for _, content in members(wheel, _MEMBER)).decode()
    table = list(csv.DictReader(text.splitlines()))
    dates = [date.fromisoformat(row["date"].replace("/", "-")) for row in table]
    years = np.array([day.year for day in dates])
    days = np.array([[day.timetuple().tm_yday] for day in dates], np.float32)
    highest = np.array([[row["temp_max"]] for row in table], np.float32)

    def split(*chosen: int) -> Split:
        rows = np.isin(years, chosen)
        return Split(days[rows], highest[rows])

    return Dataset(
        name="seattle-weather",
        origin=WHEEL.requirement,
        license="public domain (the package's, of NOAA's figures)",
        labels=(),
        train=split(2012, 2013),
        validation=split(2014),
        test=split(2015),
    ).limited(limit)
