"""How much memory this process may still take.

In a container that is less than what the machine has free; it stands in the cgroup's files.
"""

from pathlib import Path

from forwardpass.server.process.cores import CGROUPS

MEMINFO = Path("/proc/meminfo")


def available_bytes(cgroups: Path = CGROUPS, meminfo: Path = MEMINFO) -> int:
    """Returns what the machine has available, or the cgroup's limit leaves where that is less."""
    free = _free(meminfo)
    left = _left(cgroups, "memory.max", "memory.current", "inactive_file")
    if left is None:
        folder = cgroups / "memory"
        left = _left(
            folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        )
    return free if left is None else max(0, min(free, left))


def _free(meminfo: Path) -> int:
    fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Returns what a cgroup's limit leaves; None where there is no limit."""
    try:
        most = int((folder / limit).read_text(encoding="ascii"))
        used = int((folder / usage).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
        # Pages of files are given up before anything is killed.
        fields = dict(line.split() for line in stat.splitlines())
        return most - used + int(fields.get(reclaimable, 0))
    except (OSError, ValueError):
        return None
