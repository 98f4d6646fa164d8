"""Which pictures of one's own there are, and what each shows: a folder of folders, or a CSV file.

    pets/cat/1.jpg  pets/dog/old/2.png    a sub-folder a class, with folders in it where one likes
    pets.csv                              columns path and label; paths begin where the file lies

A file that is no use is left out, with a reason. None is opened here, and one that is no regular
file never is, so nothing waits for whoever might write to a FIFO.
"""

import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from forwardpass.client.jobs.file_rows import PICTURE_SUFFIXES
from forwardpass.client.jobs.listing import Row, as_text
from forwardpass.client.jobs.walk import kind_of, suffix_of
from forwardpass.trainer.data import csv_file
from forwardpass.trainer.data.csv_file import some
from forwardpass.trainer.data.left_out import LeftOut, Place
from forwardpass.trainer.errors import DataError, UnknownNameError

# A file without one may be a picture: only its bytes tell.
_SUFFIXES = PICTURE_SUFFIXES | {b""}
_TABLES = (".csv", ".tsv", ".txt")
EXAMPLE = (
    "a folder with a sub-folder of pictures for each class, such as data=pets with pets/cat/1.jpg "
    "and pets/dog/1.jpg, or a CSV file with the columns path and label"
)


class Why(StrEnum):
    """Why a file is left out, in a word or two."""

    HIDDEN = "hidden"
    NO_PICTURE = "no picture"
    NO_LABEL = "no label"
    NOT_FOLLOWED = "link to a folder"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    TWO_LABELS = "two labels"
    IN_TEST = "in the test set too"


@dataclass(slots=True)
class Listing:
    """The files to be read, and those that are not.

    Attributes:
        rows: Each with the label of what it shows; empty where nothing is asked but pictures.
        left_out: With reasons.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def labels(self) -> tuple[str, ...]:
        """Returns the labels that there are, in order."""
        return tuple(sorted({row.label for row in self.rows}))

    def take(self, path: Path, label: str) -> None:
        """Lists a file, or leaves it out."""
        name = os.fsencode(path)
        if path.name.startswith("."):
            self.left_out.leave_file(name, Why.HIDDEN, "its name begins with a dot")
        elif suffix_of(name) not in _SUFFIXES:
            known = ", ".join(sorted(map(as_text, PICTURE_SUFFIXES)))
            self.left_out.leave_file(name, Why.NO_PICTURE, f"its suffix is none of {known}")
        else:
            self._take_picture(path, name, label)

    def _take_picture(self, path: Path, name: bytes, label: str) -> None:
        try:
            status = path.stat()
        except OSError as error:
            what = "a link that leads nowhere: " if path.is_symlink() else ""
            self.left_out.leave_file(name, Why.UNREADABLE, what + (error.strerror or str(error)))
            return
        if stat.S_ISREG(status.st_mode):
            self.rows.append(Row(name, 0, "", 0, status.st_size, status.st_mtime_ns, label))
        else:
            self.left_out.leave_file(
                name, Why.UNREADABLE, f"{kind_of(status.st_mode)}, no regular file"
            )


def list_labelled(path: Path) -> Listing:
    """Returns pictures with labels.

    Args:
        path: A folder, or a CSV file.

    Raises:
        DataError: It is laid out in another way.
    """
    listing = _list_folders(path) if path.is_dir() else _list_table(path)
    for label in listing.labels():
        _check_label(label, path)
    return listing


def list_pictures(folder: Path) -> Listing:
    """Returns all pictures in a folder, however deep they lie, without labels.

    Raises:
        DataError: It is no folder, has no pictures, or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give a folder of pictures, such as data=paintings")
    listing = Listing()
    _walk(folder, "", listing)
    _check_any(folder, listing)
    return listing


def _list_folders(root: Path) -> Listing:
    """Returns the pictures in each sub-folder, whose name is their label."""
    listing = Listing()
    direct = Listing(left_out=listing.left_out)
    for entry in _entries(root):
        if not entry.is_dir():
            direct.take(entry, "")
        elif entry.name.startswith("."):
            listing.left_out.leave_file(entry, Why.HIDDEN, "its name begins with a dot")
        elif entry.is_symlink() and root.resolve().is_relative_to(entry.resolve()):
            reason = "a link to a folder that it lies in itself"
            listing.left_out.leave_file(entry, Why.NOT_FOLLOWED, reason)
        else:
            before = len(listing.rows)
            _walk(entry, entry.name, listing)
            if len(listing.rows) == before:
                reason = "a folder without pictures, so no class"
                listing.left_out.leave_file(entry, Why.NO_PICTURE, reason)
    for row in direct.rows:
        reason = "it lies beside the classes' folders, so nothing says what it shows"
        listing.left_out.leave_file(row.path, Why.NO_LABEL, reason)
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
        listing.left_out.leave_file(error.filename, Why.UNREADABLE, reason)

    for home, folders, names in os.walk(folder, onerror=tell):
        for name in sorted(folders):
            path = Path(home, name)
            if name.startswith("."):
                folders.remove(name)
                listing.left_out.leave_file(path, Why.HIDDEN, "its name begins with a dot")
            elif path.is_symlink():
                reason = "a link to a folder; such are followed only where they stand for a class"
                listing.left_out.leave_file(path, Why.NOT_FOLLOWED, reason)
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
    raise DataError(f"{root} has no picture that can be read{listing.left_out.because()}")


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
            listing.left_out.leave_rows([Place(path.name, line)], f"without a {missing}")
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
