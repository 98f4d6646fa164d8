"""How the C library gives out memory."""

import ctypes
import os

_M_ARENA_MAX = -8  # malloc.h
_VARIABLE = "MALLOC_ARENA_MAX"


def share_one_arena() -> None:
    """Has all threads take memory from one arena, and leave it there for one another.

    By default glibc gives each thread its own. A message is then received by one of gRPC core's
    threads and released by another, so that arenas grow and shrink with every large one, and each
    time the kernel has to find empty pages anew. It must be called before threads are started. What
    the operator says by MALLOC_ARENA_MAX stays, and so do other C libraries.
    """
    if _VARIABLE in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Gives back to the system what is free, which takes some milliseconds for each 10 MiB of it.

    What is freed in pieces stays with the process, which then seems to be short of memory.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
