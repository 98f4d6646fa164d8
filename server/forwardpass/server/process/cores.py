"""How many threads this process may keep busy.

ONNX Runtime counts the host's cores, and in a container with a CPU quota starts far more threads
than the kernel lets run. The quota stands in the files of the process's cgroup and of those that
this one lies in, each of which may have a smaller one.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from forwardpass.server.process.cgroups import CGROUPS, MEMBERSHIP, folders


def available_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Returns the CPU quota in whole cores, at least 1 and at most the cores we may run on.

    Args:
        cgroups: Where the cgroups are mounted.
        membership: The file that tells which of them this process is in.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in folders("cpu", cgroups, membership) for quota in _quotas(folder)]
    return max(1, min(cores, *map(int, quotas))) if quotas else cores


def _quotas(folder: Path) -> Iterator[float]:
    """Yields the quota of a cgroup in cores, if it has one: from either version's files."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        if limit > 0:
            yield limit / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
