"""How much memory this process may still take.

In a container that is less than what the machine has free; it stands in the cgroup's files.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forwardpass.server.process.cgroups import CGROUPS, MEMBERSHIP, folders

MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Memory:
    """What there is for this process, and for those that share it.

    Attributes:
        limit: Bytes that all may take together.
        available: Bytes of it that nobody has taken.
    """

    limit: int
    available: int


def memory(
    cgroups: Path = CGROUPS, meminfo: Path = MEMINFO, membership: Path = MEMBERSHIP
) -> Memory:
    """Returns what the tightest of the machine and the cgroups leaves.

    Args:
        cgroups: Where the cgroups are mounted.
        meminfo: The file that tells of the machine.
        membership: The file that tells which cgroups this process is in.
    """
    fields = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    total, free = (int(fields[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    found = [Memory(total, free)]
    for folder in folders("memory", cgroups, membership):
        found.extend(_limits(folder))
    return Memory(min(one.limit for one in found), max(0, min(one.available for one in found)))


def available_bytes() -> int:
    """Returns how many bytes this process may still take."""
    return memory().available


def _limits(folder: Path) -> Iterator[Memory]:
    """Yields the limit of a cgroup, if it has one: from either version's files."""
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most = int((folder / limit).read_text(encoding="ascii"))
            used = int((folder / usage).read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii")
            # Pages of files are given up before anything is killed.
            counts = dict(line.split() for line in stat.splitlines())
            yield Memory(most, most - used + int(counts.get(reclaimable, 0)))
