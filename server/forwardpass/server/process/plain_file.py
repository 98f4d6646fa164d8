"""Small files that an operator names, and that may change while the server runs."""

import os
import stat
from pathlib import Path

# Another one after each change of the file.
Stamp = tuple[int, ...]


class UnusableFileError(ValueError):
    """A file that cannot be used; the message says why, and nothing of what is in it."""


def read_plain_file(path: Path, most: int) -> tuple[Stamp, bytes]:
    """Returns the stamp of a file, and what is in it.

    Args:
        path: The file, or a link to it.
        most: The most bytes that it may have.

    Raises:
        UnusableFileError: It is not there, cannot be read, is no plain file, or has more bytes.
    """
    try:
        # A pipe would have it wait for whoever writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFileError(f"{path} is not a plain file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnusableFileError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > most:
        raise UnusableFileError(f"{path} has more than {most} bytes")
    return _stamp(status), content


def stamp_of(path: Path) -> Stamp | None:
    """Returns the stamp that a file has now; None where it cannot be looked at.

    The path is followed anew, as Kubernetes changes a mounted Secret by a link on the way to it.
    """
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp:
    # The last is another one also where the modification time was set by hand, or only the mode
    # has changed.
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times
