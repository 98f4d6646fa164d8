"""Pictures of one's own, with labels, as a data set: three splits that have no picture in common.

A picture is told from others by the pixels that a model sees of it. So a file and its copy under
another name, or in another format without loss, are one picture, of which one file is used; and
where two labels claim it, none is.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np

from forwardpass.client.card import ImageInput
from forwardpass.client.jobs.listing import Row, as_text
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.decoded import Decoded, decode, keep_on_disk
from forwardpass.trainer.data.folders import (
    EXAMPLE,
    LeftOut,
    Listing,
    Why,
    counts,
    describe,
    list_labelled,
    list_pictures,
    some,
    to_table,
)
from forwardpass.trainer.errors import DataError, SettingError
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.progress import Reporter

T = TypeVar("T")

LEFT_OUT_FILE = "left-out.csv"  # beside a run

_ORIGIN = "pictures of one's own"
# Of each class.
_TEST_SHARE = 0.2
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
        data: A folder, or a CSV file, as a person types it.
        test: Another to test on; empty to test on a part of `data`.
        validates: Whether some are to be set aside to choose by.
        limit: Rows of each split, at most; 0 for all.
    """

    data: str
    test: str
    validates: bool
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPhotos(Dataset):
    """Pictures of one's own, uint8 (rows, height, width, channels), and classes, int64 (rows).

    A split's rows are of each class in turn, as long as it has some.

    Attributes:
        left_out: The files that are not used, with reasons.
    """

    left_out: tuple[LeftOut, ...]

    def keep_table(self, run: Run) -> None:
        """Writes the files that are not used beside a run, with reasons, where there are some."""
        if self.left_out:
            run.keep_file(LEFT_OUT_FILE, to_table(self.left_out))
            run.reporter.note(f"what is left out, and why: {run.folder / LEFT_OUT_FILE}")

    def sentence(self) -> str:
        """Returns how many files are not used, as the card says it; "" where all are."""
        if not self.left_out:
            return ""
        return f"Files that were left out: {counts(self.left_out)}."


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """What was decoded, and which of it is used: for each digest its place."""

    decoded: Decoded
    places: Mapping[bytes, int]

    def by_class(self, labels: Sequence[str]) -> list[list[int]]:
        """Returns the places of each class, by digest: an order that no name or seed changes."""
        classes: dict[str, list[int]] = {label: [] for label in labels}
        for _, place in sorted(self.places.items()):
            classes[self.decoded.rows[place].label].append(place)
        return list(classes.values())


def load(asked: Asked, image: ImageInput, place: Path, reporter: Reporter) -> OwnPhotos:
    """Returns pictures in the size that a model takes.

    Args:
        asked: Which.
        image: The size to bring them to, and how.
        place: As for `decode`.
        reporter: Where progress is told, and what is left out.

    Raises:
        DataError: There are none, they cannot be read, or they are too few to learn from.
        SettingError: The limit leaves classes without a picture.
    """
    listing = list_labelled(asked.data, "data")
    labels = listing.labels()
    _check_classes(asked, labels)
    known = _distinct(_limited(listing, asked.limit), image, place, reporter)
    if asked.test:
        held_listing = list_labelled(asked.test, "test")
        _check_known(asked.test, held_listing.labels(), labels)
        held = _distinct(_limited(held_listing, asked.limit), image, place, reporter)
        known = _without(known, held, listing)
        listing.left_out += held_listing.left_out
    classes = known.by_class(labels)
    _check_counts(asked, labels, classes, listing)
    tested, validated, learned = _divided(classes, asked)
    test = (held, held.by_class(labels)) if asked.test else (known, tested)
    data = OwnPhotos(
        name=_name(asked.data),
        origin=_ORIGIN,
        license="",
        labels=labels,
        train=_split(known, learned, place),
        validation=_split(known, validated, place),
        test=_split(*test, place),
        left_out=tuple(listing.left_out),
    ).limited(asked.limit)
    _check_limit(asked, data)
    _tell(data, reporter)
    return data


def load_unlabelled(
    data: str, image: ImageInput, limit: int, place: Path, reporter: Reporter
) -> OwnPhotos:
    """Returns all pictures in a folder as rows to learn from, in grey where all of them are.

    Args:
        data: The folder, as a person types it.
        image: The size to bring them to, in colour, and how.
        limit: Of rows; 0 for all.
        place: As for `decode`.
        reporter: Where progress is told.

    Raises:
        DataError: There are none, or they cannot be read.
    """
    listing = list_pictures(data, "data")
    pictures = _distinct(_limited(listing, limit), image, place, reporter)
    split = _split(pictures, pictures.by_class([""]), place)
    pixels = split.inputs
    if all(np.ptp(each, axis=-1).max() == 0 for each in pixels):
        pixels = keep_on_disk((each[..., :1] for each in pixels), (*pixels.shape[1:3], 1), place)
    photos = OwnPhotos(
        name=_name(data),
        origin=_ORIGIN,
        license="",
        labels=(),
        train=Split(pixels, split.targets),
        validation=split.head(0),
        test=split.head(0),
        left_out=tuple(listing.left_out),
    ).limited(limit)
    kind = "grey" if pixels.shape[3] == 1 else "colour"
    reporter.note(f"{len(photos.train):,} pictures in {kind}")
    if photos.left_out:
        reporter.note(describe(photos.left_out))
    return photos


def _name(data: str) -> str:
    return Path(data).expanduser().resolve().name


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


def _check_known(given: str, labels: Sequence[str], known: Sequence[str]) -> None:
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
                listing.leave_out(row.path, Why.TWO_LABELS, reason)
            continue
        used[digest] = places[0]
        for row in rows[1:]:
            reason = f"the same picture as {as_text(rows[0].path)}"
            listing.leave_out(row.path, Why.DUPLICATE, reason)
    if not used:
        raise DataError(f"there is no picture that can be used. {describe(listing.left_out)}")
    return _Pictures(decoded, used)


def _without(known: _Pictures, held: _Pictures, listing: Listing) -> _Pictures:
    """Returns what may be learned from: no picture that is to be tested on."""
    for digest in known.places.keys() & held.places.keys():
        path = known.decoded.rows[known.places[digest]].path
        other = held.decoded.rows[held.places[digest]].path
        listing.leave_out(path, Why.IN_TEST, f"the same picture as {as_text(other)}")
    left = {digest: row for digest, row in known.places.items() if digest not in held.places}
    return _Pictures(known.decoded, left)


def _check_counts(
    asked: Asked, labels: Sequence[str], classes: Sequence[Sequence[int]], listing: Listing
) -> None:
    """Refuses classes of which not every split can have a picture."""
    uses = ["to learn from"]
    uses += ["to choose weights by"] if asked.validates else []
    uses += [] if asked.test else ["to test on"]
    for label, places in zip(labels, classes, strict=True):
        if len(places) < len(uses):
            told = f". {describe(listing.left_out)}" if listing.left_out else ""
            noun = "picture" if len(places) == 1 else "pictures"
            raise DataError(
                f"the class {label!r} has {len(places)} {noun} that can be used, and takes one "
                f"{' and one '.join(uses)}; add more, or take the class away{told}"
            )


def _divided(classes: Sequence[Sequence[int]], asked: Asked) -> tuple[list[list[int]], ...]:
    """Returns the places to test on, to choose by and to learn from, of each class."""
    tested, validated, learned = [], [], []
    for places in classes:
        tests = 0 if asked.test else max(1, round(_TEST_SHARE * len(places)))
        validations = max(1, round(_VALIDATION_SHARE * len(places))) if asked.validates else 0
        tested.append(list(places[:tests]))
        validated.append(list(places[tests : tests + validations]))
        learned.append(list(places[tests + validations :]))
    return tested, validated, learned


def _split(pictures: _Pictures, classes: Sequence[Sequence[int]], place: Path) -> Split:
    """Returns a split of some places of each class, on disk and in the order of its rows."""
    pixels = pictures.decoded.pixels
    groups = [[(row, target) for row in places] for target, places in enumerate(classes)]
    rows = in_turn(groups)
    inputs = keep_on_disk((pixels[row] for row, _ in rows), pixels.shape[1:], place)
    return Split(inputs, np.array([target for _, target in rows], np.int64))


def _check_limit(asked: Asked, data: Dataset) -> None:
    if len(set(data.train.targets.tolist())) < len(data.labels):
        raise SettingError(
            f"limit={asked.limit}: give at least {len(data.labels)}, a row for each class"
        )


def _tell(data: OwnPhotos, reporter: Reporter) -> None:
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
    if data.left_out:
        reporter.note(describe(data.left_out))
