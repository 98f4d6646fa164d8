"""How many threads this process may keep busy.

ONNX Runtime counts the host's cores, and in a container with a CPU quota starts far more threads
than the kernel lets run. The quota stands in the cgroup's files.
"""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """Returns the CPU quota in whole cores, at least 1 and at most the cores we may run on."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """The quota in cores: cgroup v2's file, else v1's; None where neither limits."""
    try:
        quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = cgroups / "cpu"
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return limit / period_us if limit > 0 else None
