"""Which pictures of one's own there are, and what each shows: a folder of folders, or a CSV file.

    pets/cat/1.jpg  pets/dog/old/2.png    a sub-folder a class, with folders in it where one likes
    pets.csv                              columns path and label; paths begin where the file lies

A file that is no use is left out, with a reason. None is opened here, and one that is no regular
file never is, so nothing waits for whoever might write to a FIFO.
"""

import csv
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from forwardpass.client.jobs.file_rows import PICTURE_SUFFIXES
from forwardpass.client.jobs.listing import Row, as_text
from forwardpass.client.jobs.walk import kind_of, suffix_of
from forwardpass.trainer.data import csv_file
from forwardpass.trainer.errors import DataError, SettingError, UnknownNameError

# A file without one may be a picture: only its bytes tell.
_SUFFIXES = PICTURE_SUFFIXES | {b""}
_TABLES = (".csv", ".tsv", ".txt")
# Names that an error has.
_NAMED = 5
EXAMPLE = (
    "a folder with a sub-folder of pictures for each class, such as data=pets with pets/cat/1.jpg "
    "and pets/dog/1.jpg, or a CSV file with the columns path and label"
)

PICTURES = "a folder of pictures, such as data=paintings"


class Why(StrEnum):
    """Why a file is left out, in a word or two: what the card counts."""

    HIDDEN = "hidden"
    NO_PICTURE = "no picture"
    NO_LABEL = "no label"
    NOT_FOLLOWED = "link to a folder"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    TWO_LABELS = "two labels"
    IN_TEST = "in the test set too"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or a folder with all that is in it, that is not used.

    Attributes:
        path: Where it lies.
        why: In a word or two.
        reason: In full.
    """

    path: str
    why: Why
    reason: str


@dataclass(slots=True)
class Listing:
    """The files to be read, and those that are not.

    Attributes:
        rows: Each with the label of what it shows; empty where nothing is asked but pictures.
        left_out: With reasons.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def labels(self) -> tuple[str, ...]:
        """Returns the labels that there are, in order."""
        return tuple(sorted({row.label for row in self.rows}))

    def leave_out(self, path: str | bytes, why: Why, reason: str) -> None:
        """Notes a file that is not used."""
        # What is no text in UTF-8 is written as it is escaped.
        text = as_text(path) if isinstance(path, bytes) else as_text(os.fsencode(path))
        self.left_out.append(LeftOut(text, why, reason))

    def take(self, path: Path, label: str) -> None:
        """Lists a file, or leaves it out."""
        name = os.fsencode(path)
        if path.name.startswith("."):
            self.leave_out(name, Why.HIDDEN, "its name begins with a dot")
        elif suffix_of(name) not in _SUFFIXES:
            known = ", ".join(sorted(map(as_text, PICTURE_SUFFIXES)))
            self.leave_out(name, Why.NO_PICTURE, f"its suffix is none of {known}")
        else:
            self._take_picture(path, name, label)

    def _take_picture(self, path: Path, name: bytes, label: str) -> None:
        try:
            status = path.stat()
        except OSError as error:
            what = "a link that leads nowhere: " if path.is_symlink() else ""
            self.leave_out(name, Why.UNREADABLE, what + (error.strerror or str(error)))
            return
        if stat.S_ISREG(status.st_mode):
            self.rows.append(Row(name, 0, "", 0, status.st_size, status.st_mtime_ns, label))
        else:
            self.leave_out(name, Why.UNREADABLE, f"{kind_of(status.st_mode)}, no regular file")


def list_labelled(given: str, key: str) -> Listing:
    """Returns pictures with labels.

    Args:
        given: A folder, or a CSV file, as a person types it.
        key: The setting that it was given by, for errors.

    Raises:
        DataError: There is no such folder or file, or it is laid out in another way.
    """
    path = check_given(given, key)
    listing = _list_folders(path) if path.is_dir() else _list_table(path)
    for label in listing.labels():
        _check_label(label, path)
    return listing


def list_pictures(given: str, key: str) -> Listing:
    """Returns all pictures in a folder, however deep they lie, without labels.

    Raises:
        DataError: There is no such folder, or it cannot be read.
    """
    path = check_given(given, key, PICTURES)
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give {key}=FOLDER, with pictures in it")
    listing = Listing()
    _walk(path, "", listing)
    _check_any(path, listing)
    return listing


def to_table(left_out: Iterable[LeftOut]) -> bytes:
    """Returns what is left out as a CSV file with the columns path, why and reason."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["path", "why", "reason"])
    writer.writerows((each.path, each.why, each.reason) for each in left_out)
    return file.getvalue().encode()


def counts(left_out: Iterable[LeftOut]) -> str:
    """Returns how many are left out for each reason, the most frequent first."""
    found = Counter(each.why for each in left_out).most_common()
    return ", ".join(f"{number:,} {why}" for why, number in found)


def some(names: Sequence[str]) -> str:
    """Returns some names as an error has them: "'a', 'b' and 7 more"."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def check_given(given: str, key: str, example: str = EXAMPLE) -> Path:
    """Returns the folder or file that a person has typed.

    Args:
        given: What was typed.
        key: The setting that it was given by.
        example: What to give.

    Raises:
        SettingError: Nothing was typed.
        DataError: There is no such folder or file.
    """
    if not given:
        raise SettingError(f"{key}= is missing: give {example}")
    path = Path(given).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{key}={given}: {error.strerror or error}; give {example}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(f"{key}={given} is {kind_of(mode)}; give {example}")
    return path


def _list_folders(root: Path) -> Listing:
    """Returns the pictures in each sub-folder, whose name is their label."""
    listing = Listing()
    direct = Listing()
    for entry in _entries(root):
        if not entry.is_dir():
            direct.take(entry, "")
        elif entry.name.startswith("."):
            listing.leave_out(os.fsencode(entry), Why.HIDDEN, "its name begins with a dot")
        elif entry.is_symlink() and root.resolve().is_relative_to(entry.resolve()):
            reason = "a link to a folder that it lies in itself"
            listing.leave_out(os.fsencode(entry), Why.NOT_FOLLOWED, reason)
        else:
            before = len(listing.rows)
            _walk(entry, entry.name, listing)
            if len(listing.rows) == before:
                reason = "a folder without pictures, so no class"
                listing.leave_out(os.fsencode(entry), Why.NO_PICTURE, reason)
    listing.left_out += direct.left_out
    for row in direct.rows:
        reason = "it lies beside the classes' folders, so nothing says what it shows"
        listing.leave_out(row.path, Why.NO_LABEL, reason)
    _check_layout(root, listing, direct)
    return listing


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error


def _walk(folder: Path, label: str, listing: Listing) -> None:
    """Lists what is below a folder; links to files are followed, and those to folders are not."""

    def tell(error: OSError) -> None:
        reason = f"the folder cannot be read: {error.strerror}"
        listing.leave_out(error.filename, Why.UNREADABLE, reason)

    for home, folders, names in os.walk(folder, onerror=tell):
        for name in sorted(folders):
            path = Path(home, name)
            if name.startswith("."):
                folders.remove(name)
                listing.leave_out(os.fsencode(path), Why.HIDDEN, "its name begins with a dot")
            elif path.is_symlink():
                reason = "a link to a folder; such are followed only where they stand for a class"
                listing.leave_out(os.fsencode(path), Why.NOT_FOLLOWED, reason)
        folders.sort()
        for name in sorted(names):
            listing.take(Path(home, name), label)


def _check_layout(root: Path, listing: Listing, direct: Listing) -> None:
    """Refuses a folder of which the sub-folders are no classes.

    Raises:
        DataError: It says how the pictures should lie.
    """
    labels = listing.labels()
    if not labels and direct.rows:
        first = Path(os.fsdecode(direct.rows[0].path)).name
        raise DataError(
            f"{root} has pictures and no sub-folders, so nothing says what each shows; put those "
            f"of a class in a sub-folder that is called as it is, such as {root / 'cat' / first}"
        )
    _check_any(root, listing)
    deep = {label: _folders_in(root / label) for label in labels}
    if len(labels) == 1 and len(deep[labels[0]]) > 1:
        raise DataError(
            f"{root} has one sub-folder, {labels[0]}, with the folders {some(deep[labels[0]])}; if "
            f"those are the classes, give {root / labels[0]}"
        )
    if len(labels) > 1 and all(deep.values()) and len({*map(tuple, deep.values())}) == 1:
        raise DataError(
            f"{some(labels)} in {root} all have the folders {some(deep[labels[0]])}; if those are "
            f"the classes, give one of them, such as {root / labels[0]}, and another as test="
        )


def _folders_in(folder: Path) -> list[str]:
    """Returns the names of a folder's sub-folders; none where files lie beside them."""
    seen = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    return [entry.name for entry in seen] if all(entry.is_dir() for entry in seen) else []


def _check_any(root: Path, listing: Listing) -> None:
    if listing.rows:
        return
    if not listing.left_out:
        raise DataError(f"{root} is empty; give {EXAMPLE}")
    raise DataError(f"{root} has no picture that can be read. {describe(listing.left_out)}")


def describe(left_out: Sequence[LeftOut]) -> str:
    """Returns a sentence on what is left out."""
    first = left_out[0]
    return f"Left out: {counts(left_out)}; such as {first.path}: {first.reason}"


def _list_table(path: Path) -> Listing:
    """Returns the pictures that a CSV file lists, with the labels that it gives them."""
    if path.suffix.lower() not in _TABLES:
        raise DataError(f"{path} is neither a folder nor a CSV file; give {EXAMPLE}")
    table = csv_file.read(path)
    try:
        paths, labels = table.column("path"), table.column("label")
    except UnknownNameError:
        raise DataError(
            f"{path} has the headings {some(list(table.columns))}; its first line has to be "
            "path,label: what follows are the pictures' files, from where this one lies, and what "
            "each shows"
        ) from None
    listing = Listing()
    for line, name, label in zip(table.lines, paths, labels, strict=True):
        if not name.strip() or not label.strip():
            missing = "label" if name.strip() else "path"
            listing.leave_out(name or str(path), Why.NO_LABEL, f"line {line} has no {missing}")
            continue
        listing.take(path.parent / name.strip(), label.strip())
    _check_any(path, listing)
    return listing


def _check_label(label: str, path: Path) -> None:
    if not label.isprintable() or not label.strip():
        raise DataError(
            f"the label {label!r} in {path} cannot be written on a card: it has characters that "
            "cannot be printed, or bytes that are no UTF-8. Rename it"
        )
