"""Arrays that take seconds to parse, kept in the cache beside the package that they came in."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from forwardpass.artefact import array_digest
from forwardpass.trainer.data.drafts import draft_folder
from forwardpass.trainer.errors import DataError
from forwardpass.wire import Array


def keep_parsed(path: Path, sha256: str, parse: Callable[[], Mapping[str, Array]]) -> list[Array]:
    """Returns the arrays of an .npz file, which is parsed for and written where it is not there.

    A file of parsed arrays is trusted no more than the package was: it has a digest of its own.

    Args:
        path: The .npz file, in the cache.
        sha256: The `array_digest` of the arrays, in order.
        parse: Gives the arrays by name, in order.

    Raises:
        DataError: The file is damaged or cannot be written, or the package was parsed to other
            arrays.
    """
    if path.exists():
        arrays = _read(path)
        if array_digest(arrays) != sha256:
            raise DataError(f"{path} is damaged. Delete it; it is made anew from its package.")
        return arrays
    named = parse()
    if (found := array_digest(named.values())) != sha256:
        raise DataError(
            f"what was parsed for {path} is not what is expected; nothing was written:\n"
            f"  expected sha256 {sha256}\n"
            f"  got      sha256 {found}\n"
            "The package was the right one, so compare the versions of numpy and Pillow with those "
            "that forwardpass was tested with."
        )
    with draft_folder(path.parent) as folder:
        draft = folder / path.name
        np.savez(draft, allow_pickle=False, **named)
        draft.replace(path)
    return list(named.values())


def _read(path: Path) -> list[Array]:
    """Returns the arrays in the order that they were written in; none where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in file.files]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []
