"""The file of a unix-domain socket: whose it is, and who may connect."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a new socket may not be: anything to those who are neither its owner nor in its group.
_MASK = 0o117
# What the kernel has room for.
_MAX_BYTES = 107


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Makes sure that a server may listen at a path, until it does, inside.

    gRPC core itself would take the place of whatever socket is there, in use or not. What a dead
    server has left is replaced; one that answers is not. Two servers that start at a time take
    turns, by a lock on the folder.

    Raises:
        OSError: A server answers there, something else is there, or there is no such folder.
    """
    if (size := len(os.fsencode(path))) > _MAX_BYTES:
        raise OSError(
            f"cannot listen on unix:{path}: the path of a socket has at most {_MAX_BYTES} bytes, "
            f"and this has {size}"
        )
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OSError(f"cannot listen on unix:{path}: {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _check_free(path)
        # It holds for the process, which makes no other file while it begins to listen.
        mask = os.umask(_MASK)
        try:
            yield
        finally:
            os.umask(mask)
    finally:
        os.close(folder)


def _check_free(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise OSError(f"cannot listen on unix:{path}: there is something else than a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise OSError(
                f"cannot listen on unix:{path}: whether another server is there cannot be told: "
                f"{error}"
            ) from None
    raise OSError(f"cannot listen on unix:{path}: another server is there")
