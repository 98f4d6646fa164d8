"""How many files and connections this process may have open, and some that are kept free."""

import os
import resource
import threading
from pathlib import Path


def raise_limit() -> None:
    """Raises the soft limit of open descriptors to the hard one, for child processes too.

    Distributions keep the soft limit at 1,024 for programs that use select(2), which this is not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # The kernel has been told to allow fewer since; what is allowed now stays.
        return


class Reserve:
    """Descriptors that are held, so that they can be had when the process has no others.

    Another thread may take what is let go of before it is used. What comes back comes back for
    sure: a descriptor that is in use becomes one that is held, and is free at no time.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._held = [os.open(os.devnull, os.O_RDONLY) for _ in range(size)]
        # What all of them are: a file that is never read.
        self._file = Path(os.devnull).open("rb")  # noqa: SIM115  # `close` closes it

    def release(self) -> bool:
        """Lets go of one; whether there was one."""
        with self._lock:
            if not self._held:
                return False
            os.close(self._held.pop())
            return True

    def take_back(self, descriptor: int) -> None:
        """Closes a descriptor; holds it where the reserve is not full."""
        with self._lock:
            if len(self._held) < self._size:
                os.dup2(self._file.fileno(), descriptor, inheritable=False)
                self._held.append(descriptor)
                return
        os.close(descriptor)

    def close(self) -> None:
        """Lets go of all."""
        with self._lock:
            self._size = 0
            for descriptor in self._held:
                os.close(descriptor)
            self._held.clear()
            self._file.close()
