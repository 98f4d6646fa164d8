"""What was named on the command line, to a list of rows."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.file_rows import (
    PARQUET,
    PICTURE_SUFFIXES,
    FileRows,
    column_type,
    kind_of_type,
)
from forwardpass.client.jobs.listing import Kind, Listing, as_text
from forwardpass.client.jobs.walk import (
    MAX_FILE_BYTES,
    LeftOut,
    Walk,
    count_refused,
    suffix_of,
)

if TYPE_CHECKING:
    pass

_SUFFIXES = {
    Kind.PICTURES: PICTURE_SUFFIXES | {b".tar"},
    Kind.TEXTS: frozenset({b".txt"}),
    Kind.ARRAYS: frozenset({b".npy", b".npz"}),
}


@dataclass(frozen=True, slots=True)
class Takes:
    """What a model can be given.

    Attributes:
        pictures: Whether it has an input for encoded images.
        texts: Whether it has a text input.
        arrays: Whether it has one input, and so takes arrays without names.
    """

    pictures: bool
    texts: bool
    arrays: bool


@dataclass(frozen=True, slots=True)
class Sources:
    """What is to be embedded.

    Attributes:
        given: Files, folders and patterns, such as b"photos/**/*.jpg".
        listed: Files that stand in a list; None where there is no list. One that cannot be taken is
            left out, where one of those given is an error.
        column: The column of Parquet files to take.
        follow: Whether to follow links.
    """

    given: Sequence[bytes]
    listed: Sequence[bytes] | None = None
    column: str | None = None
    follow: bool = True


def read_file_list(data: bytes) -> list[bytes]:
    """Returns the paths in a list: each ends with a NUL, or where there is none with a line end."""
    paths = data.split(b"\0" if b"\0" in data else b"\n")
    return [path for path in paths if path]


def list_rows(
    sources: Sources,
    takes: Takes,
    model: str,
    *,
    in_order: bool = False,
    may_be_empty: bool = False,
) -> Listing:
    """Returns the rows that are to be embedded.

    Args:
        sources: Where they are.
        takes: What the model takes.
        model: Its name, for errors.
        in_order: Whether what was given first comes first; otherwise rows go by path.
        may_be_empty: Whether nothing at all is a list as well.

    Raises:
        JobError: Nothing is found, or the model does not take what is.
    """
    given = [path for source in sources.given for path in _expand(source)]
    kind = _kind(given, takes, model, sources.column)
    suffixes = _SUFFIXES[kind] | ({PARQUET} if sources.column else frozenset())
    for path in given:
        if not os.path.isdir(path) and suffix_of(path) not in suffixes:  # noqa: PTH112 - of bytes
            raise JobError(_unexpected(path, kind, suffixes))
    walk = Walk(suffixes.__contains__, follow=sources.follow, max_bytes=_max_bytes)
    found = walk.found
    for path in given:
        begin = len(found.files)
        walk.add(path)
        found.files[begin:] = sorted(found.files[begin:], key=lambda file: file.path)
    for path in sources.listed or ():
        if suffix_of(path) in suffixes:
            walk.add(path)
        else:
            found.left_out.append(LeftOut(path, "its suffix is none of those that are read"))
    files = list({file.path: file for file in found.files}.values())
    if not in_order:
        files.sort(key=lambda file: file.path)
    reader = FileRows(kind, sources.column)
    listing = Listing.of(kind, reader.rows(files, found.left_out))
    listing.left_out = sorted(found.left_out, key=lambda left: left.path)
    listing.skipped = {as_text(suffix): count for suffix, count in sorted(found.skipped.items())}
    listing.links = found.links
    if not len(listing) and not may_be_empty:
        raise JobError(_nothing(given, kind, listing))
    return listing


def refused(listing: Listing) -> int:
    """Returns how many inputs are left out, or may have been meant and have another suffix."""
    skipped = {os.fsencode(suffix): count for suffix, count in listing.skipped.items()}
    return len(listing.left_out) + count_refused(skipped)


def _expand(source: bytes) -> list[bytes]:
    if os.path.lexists(source):
        return [source]
    if any(character in source for character in (b"*", b"?", b"[")):
        found = sorted(glob.iglob(source, recursive=True))  # noqa: PTH207 - of bytes
        if found:
            return found
        raise JobError(f"nothing matches {as_text(source)}")
    raise JobError(f"{as_text(source)} does not exist")


def _kind(given: Sequence[bytes], takes: Takes, model: str, column: str | None) -> Kind:
    """Returns what the rows become: as the files' suffixes say, else what the model takes."""
    able = {Kind.PICTURES: takes.pictures, Kind.TEXTS: takes.texts, Kind.ARRAYS: takes.arrays}
    named = {
        kind
        for path in given
        if not os.path.isdir(path)  # noqa: PTH112 - of bytes
        for kind, suffixes in _SUFFIXES.items()
        if suffix_of(path) in suffixes
    }
    if len(named) > 1:
        raise JobError(f"{' and '.join(sorted(named))} do not go together: give each a job")
    if not named and column is not None:
        named = {_kind_of_column(path, column) for path in given if suffix_of(path) == PARQUET}
    kind = next(iter(named), None) or next(
        (kind for kind, is_able in able.items() if is_able), None
    )
    if kind is None or not able[kind]:
        what = "images" if kind is Kind.PICTURES else str(kind or "one array")
        hint = (
            "" if takes.pictures or not takes.arrays else (": give the rows of its input as a .npy")
        )
        raise JobError(f"{model} takes no {what}{hint}")
    return kind


def _kind_of_column(path: bytes, column: str) -> Kind:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(os.fsdecode(path))
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{as_text(path)} cannot be read: {error}") from None
    return kind_of_type(column_type(schema, column, path))


def _max_bytes(suffix: bytes) -> int:
    # Of the others only what is asked for is read at a time.
    return MAX_FILE_BYTES if suffix in PICTURE_SUFFIXES else 1 << 62


def _unexpected(path: bytes, kind: Kind, suffixes: Iterable[bytes]) -> str:
    if suffix_of(path) == PARQUET:
        return f"{as_text(path)}: name the column with --column"
    expected = ", ".join(sorted(map(as_text, suffixes)))
    return f"{as_text(path)}: expected a folder, or for {kind} {expected}"


def _nothing(given: Sequence[bytes], kind: Kind, listing: Listing) -> str:
    places = ", ".join(map(as_text, given)) or "the list"
    message = f"no {kind} in {places}"
    if listing.left_out:
        first = listing.left_out[0]
        message += f"; {len(listing.left_out)} left out, such as {as_text(first.path)}: "
        message += first.reason
    elif listing.skipped:
        message += "; there are " + ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in listing.skipped.items()
        )
    return message
