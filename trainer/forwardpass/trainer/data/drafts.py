"""Folders in the cache for files that are not whole yet."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forwardpass.trainer.errors import DataError

_PREFIX = ".tmp-"


@contextmanager
def draft_folder(cache: Path) -> Iterator[Path]:
    """Gives a folder in the cache, which is gone afterwards.

    Processes take turns, by a lock that the system drops when its holder dies. So a folder of this
    kind that is found has no owner any more, and is swept away.

    Raises:
        DataError: The cache cannot be written, for one because the disk is full.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for abandoned in cache.glob(f"{_PREFIX}*"):
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(dir=cache, prefix=_PREFIX) as folder:
                yield Path(folder)
    except OSError as error:
        raise DataError(
            f"the cache {cache} cannot be written: {error.strerror or error}. Give another place "
            "for data, by --cache."
        ) from error
