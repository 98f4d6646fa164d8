"""Pictures of one's own, with labels, as a data set: three splits that have no picture in common.

A picture is told from others by the pixels that a model sees of it. So a file and its copy under
another name, or in another format without loss, are one picture, of which one file is used; and
where two labels claim it, none is.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.listing import Row, as_text
from forwardpass.trainer.data.csv_file import some
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.decoded import Decoded, decode, keep_on_disk
from forwardpass.trainer.data.folders import (
    EXAMPLE,
    Listing,
    Why,
    list_labelled,
    list_pictures,
)
from forwardpass.trainer.data.left_out import LeftOut
from forwardpass.trainer.data.splits import TEST_SHARE, split
from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.trainer.training.progress import Reporter

T = TypeVar("T")

_ORIGIN = "pictures of one's own"
# Of each class, to choose by.
_VALIDATION_SHARE = 0.1
# With a limit, how many times as many files are looked at, since a fifth of them is to test on; and
# how many of each class at least.
_LISTED = 5
# What is measured of a class with fewer to test on says little.
_FEW = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """Which pictures are to be read, and what for.

    Attributes:
        data: A folder, or a CSV file.
        test: Another to test on; None to test on a part of `data`.
        validates: Whether some are to be set aside to choose by.
        limit: Rows of each split, at most; 0 for all.
    """

    data: Path
    test: Path | None
    validates: bool
    limit: int


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """What was decoded, and which of it is used: for each digest its place."""

    decoded: Decoded
    places: Mapping[bytes, int]

    def in_order(self) -> list[int]:
        """Returns the places by digest: an order that no name changes."""
        return [place for _, place in sorted(self.places.items())]

    def label(self, place: int) -> str:
        """Returns what is in a place."""
        return self.decoded.rows[place].label


def load(asked: Asked, image: ImageInput, place: Path, reporter: Reporter) -> Dataset:
    """Returns pictures in the size that a model takes, and says which files are left out.

    They are uint8 (rows, height, width, channels) with classes, int64 (rows). A split's rows are of
    each class in turn, as long as it has some.

    Args:
        asked: Which.
        image: The size to bring them to, and how.
        place: As for `decode`.
        reporter: Where progress is told, and what is left out.

    Raises:
        DataError: There are none, they cannot be read, or they are too few to learn from.
        SettingError: The limit leaves classes without a picture.
    """
    listing = list_labelled(asked.data)
    labels = listing.labels()
    _check_classes(asked, labels)
    known = _distinct(_limited(listing, asked.limit), image, place, reporter)
    held = None
    if asked.test:
        held_listing = list_labelled(asked.test)
        _check_known(asked.test, held_listing.labels(), labels)
        held = _distinct(_limited(held_listing, asked.limit), image, place, reporter)
        known = _without(known, held, listing)
        listing.left_out.items.extend(held_listing.left_out.items)
    _check_counts(asked, labels, known, listing.left_out)
    train, validation, test = _divided(known, labels, asked, place)
    data = Dataset(
        name=asked.data.resolve().name,
        origin=_ORIGIN,
        license="",
        labels=labels,
        train=train,
        validation=validation,
        test=test if held is None else _split(held, held.in_order(), labels, place),
        left_out=listing.left_out,
    ).limited(asked.limit)
    _check_limit(asked, data)
    _tell(data, reporter)
    return data


def load_unlabelled(
    folder: Path, image: ImageInput, limit: int, place: Path, reporter: Reporter
) -> Dataset:
    """Returns all pictures in a folder as rows to learn from, in grey where all of them are.

    Args:
        folder: Where they lie, in sub-folders or not.
        image: The size to bring them to, in colour, and how.
        limit: Of rows; 0 for all.
        place: As for `decode`.
        reporter: Where progress is told, and what is left out.

    Raises:
        DataError: There are none, or they cannot be read.
    """
    listing = list_pictures(folder)
    pictures = _distinct(_limited(listing, limit), image, place, reporter)
    whole = _split(pictures, pictures.in_order(), ("",), place)
    pixels = whole.inputs
    if all(np.ptp(each, axis=-1).max() == 0 for each in pixels):
        pixels = keep_on_disk((each[..., :1] for each in pixels), (*pixels.shape[1:3], 1), place)
    photos = Dataset(
        name=folder.resolve().name,
        origin=_ORIGIN,
        license="",
        labels=(),
        train=Split(pixels, whole.targets),
        validation=whole.head(0),
        test=whole.head(0),
        left_out=listing.left_out,
    ).limited(limit)
    kind = "grey" if pixels.shape[3] == 1 else "colour"
    reporter.note(f"{len(photos.train):,} pictures in {kind}")
    photos.left_out.tell(reporter)
    return photos


def in_turn(groups: Sequence[Sequence[T]]) -> list[T]:
    """Returns the first of each group, the second of each, and so on."""
    missing = object()
    turns = chain.from_iterable(zip_longest(*groups, fillvalue=missing))
    return [each for each in turns if each is not missing]  # type: ignore[misc]


def _check_classes(asked: Asked, labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise DataError(
            f"{asked.data} has one class, {labels[0]!r}, and a classifier tells two or more apart; "
            f"give {EXAMPLE}"
        )


def _check_known(given: Path, labels: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise DataError(
            f"test={given} has the classes {some(unknown)}, which data= has no pictures of; it has "
            f"{some(known)}"
        )


def _limited(listing: Listing, limit: int) -> Listing:
    """Has the listing keep no more files than are needed for so many rows of each split."""
    if limit:
        classes: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(listing.rows, key=lambda row: hashlib.sha256(row.path).digest()):
            classes[row.label].append(row)
        most = _LISTED * max(limit, len(classes))
        listing.rows = in_turn(list(classes.values()))[:most]
    return listing


def _distinct(listing: Listing, image: ImageInput, place: Path, reporter: Reporter) -> _Pictures:
    """Returns the pictures of a listing, each once; those that two labels claim are left out.

    Raises:
        DataError: None is left.
    """
    decoded = decode(listing, image, place, reporter)
    same: dict[bytes, list[int]] = defaultdict(list)
    for each, digest in enumerate(decoded.digests):
        same[digest].append(each)
    used: dict[bytes, int] = {}
    for digest, places in same.items():
        rows = [decoded.rows[each] for each in places]
        if len({row.label for row in rows}) > 1:
            for row in rows:
                other = next(found for found in rows if found.label != row.label)
                reason = f"the same picture is labelled {other.label!r} as {as_text(other.path)}"
                listing.left_out.leave_file(row.path, Why.TWO_LABELS, reason)
            continue
        used[digest] = places[0]
        for row in rows[1:]:
            reason = f"the same picture as {as_text(rows[0].path)}"
            listing.left_out.leave_file(row.path, Why.DUPLICATE, reason)
    if not used:
        raise DataError(f"there is no picture that can be used{listing.left_out.because()}")
    return _Pictures(decoded, used)


def _without(known: _Pictures, held: _Pictures, listing: Listing) -> _Pictures:
    """Returns what may be learned from: no picture that is to be tested on."""
    for digest in known.places.keys() & held.places.keys():
        path = known.decoded.rows[known.places[digest]].path
        other = held.decoded.rows[held.places[digest]].path
        listing.left_out.leave_file(path, Why.IN_TEST, f"the same picture as {as_text(other)}")
    left = {digest: row for digest, row in known.places.items() if digest not in held.places}
    return _Pictures(known.decoded, left)


def _check_counts(
    asked: Asked, labels: Sequence[str], pictures: _Pictures, left_out: LeftOut
) -> None:
    """Refuses classes of which not every split can have a picture."""
    uses = ["to learn from"]
    uses += ["to choose weights by"] if asked.validates else []
    uses += [] if asked.test else ["to test on"]
    counts = Counter(map(pictures.label, pictures.places.values()))
    for label in labels:
        if counts[label] < len(uses):
            noun = "picture" if counts[label] == 1 else "pictures"
            raise DataError(
                f"the class {label!r} has {counts[label]} {noun} that can be used, and takes one "
                f"{' and one '.join(uses)}; add more, or take the class away"
                f"{left_out.because()}"
            )


def _divided(
    pictures: _Pictures, labels: Sequence[str], asked: Asked, place: Path
) -> tuple[Split, ...]:
    """Returns the pictures to learn from, to choose by and to test on."""
    places = pictures.in_order()
    parts = split(
        [pictures.decoded.digests[each] for each in places],
        [labels.index(pictures.label(each)) for each in places],
        test=0 if asked.test else TEST_SHARE,
        validation=_VALIDATION_SHARE if asked.validates else 0,
    )
    return tuple(
        _split(pictures, [places[row] for row in part.tolist()], labels, place) for part in parts
    )


def _split(
    pictures: _Pictures, places: Sequence[int], labels: Sequence[str], folder: Path
) -> Split:
    """Returns the pictures in some places as a split, on disk, each class in turn."""
    classes: dict[str, list[tuple[int, int]]] = {label: [] for label in labels}
    targets = {label: target for target, label in enumerate(labels)}
    for each in places:
        label = pictures.label(each)
        classes[label].append((each, targets[label]))
    rows = in_turn(list(classes.values()))
    pixels = pictures.decoded.pixels
    inputs = keep_on_disk((pixels[row] for row, _ in rows), pixels.shape[1:], folder)
    return Split(inputs, np.array([target for _, target in rows], np.int64))


def _check_limit(asked: Asked, data: Dataset) -> None:
    if len(set(data.train.targets.tolist())) < len(data.labels):
        raise SettingError(
            f"limit={asked.limit}: give at least {len(data.labels)}, a row for each class"
        )


def _tell(data: Dataset, reporter: Reporter) -> None:
    splits = {"to learn from": data.train, "to choose by": data.validation, "to test on": data.test}
    sizes = ", ".join(f"{len(split):,} {use}" for use, split in splits.items() if len(split))
    reporter.note(f"{len(data.labels)} classes of pictures: {sizes}")
    numbers = np.bincount(data.test.targets, minlength=len(data.labels))
    few = [label for label, number in zip(data.labels, numbers, strict=True) if number < _FEW]
    if few:
        reporter.note(
            f"fewer than {_FEW} pictures to test {some(few)} on: what is measured of such a class "
            "says little"
        )
    data.left_out.tell(reporter)
