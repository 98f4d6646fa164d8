"""Penguins of the Palmer Archipelago (Gorman, Williams and Fraser, 2014), from palmerpenguins.

A bird's measurements are inputs; what is told from them is of four kinds.
"""

import csv
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.training.progress import Reporter

WHEEL = Package(
    index="pypi",
    requirement="palmerpenguins==0.1.6",
    file="palmerpenguins-0.1.6-py3-none-any.whl",
    sha256="5c3be9af84dd703a25f1aaeadeac6ac770cfd38c1620d00089f581c023129ee0",
)
_MEMBER = "palmerpenguins/data/penguins-raw.csv"
_FEATURES = ("Culmen Length (mm)", "Culmen Depth (mm)", "Flipper Length (mm)")
_CARBON, _MASS, _SEX, _SPECIES = "Delta 13 C (o/oo)", "Body Mass (g)", "Sex", "Species"
# The first word of what the table calls them.
SPECIES = ("Adelie", "Chinstrap", "Gentoo")
# Which rows are test rows must not change with a run's seed, or results could not be compared.
_SPLIT_SEED = 0


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns the 325 birds of which everything was measured, as float32.

    Inputs are (rows, 3): length and depth of the bill and length of a flipper, in millimetres.
    Targets are (rows, 4): how far the share of carbon-13 in the blood is from the standard's, in
    permille and negative; mass in kilograms; 1 for a male; the species as an index into labels.
    195 rows to train on, 50 to validate, 80 to test, with equal shares of each species.

    Args:
        cache: Where the package is kept.
        reporter: Where fetching is told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is another file.
    """
    wheel = fetch(WHEEL, cache, reporter)
    text = next(content for _, content in members(wheel, _MEMBER)).decode()
    needed = (*_FEATURES, _CARBON, _MASS, _SEX)
    birds = [
        bird
        for bird in csv.DictReader(text.splitlines())
        if all(bird[column] != "NA" for column in needed)
    ]
    inputs = np.array([[bird[column] for column in _FEATURES] for bird in birds], np.float32)
    targets = np.array(
        [
            (
                float(bird[_CARBON]),
                float(bird[_MASS]) / 1000,
                bird[_SEX] == "MALE",
                SPECIES.index(bird[_SPECIES].split()[0]),
            )
            for bird in birds
        ],
        np.float32,
    )
    rest, test, rest_targets, test_targets = train_test_split(
        inputs, targets, test_size=80, stratify=targets[:, 3], random_state=_SPLIT_SEED
    )
    train, validation, train_targets, validation_targets = train_test_split(
        rest, rest_targets, test_size=50, stratify=rest_targets[:, 3], random_state=_SPLIT_SEED
    )
    return Dataset(
        name="penguins",
        origin=WHEEL.requirement,
        license="CC0 1.0",
        labels=SPECIES,
        train=Split(train, train_targets),
        validation=Split(validation, validation_targets),
        test=Split(test, test_targets),
    ).limited(limit)
