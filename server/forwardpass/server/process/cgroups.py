"""The cgroups that this process is in, whose files say what it may use.

A container has a limit in the files of its cgroup, of version 2 or of version 1. Those that a
cgroup lies in may each have a smaller one.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def folders(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yields the folders of the cgroups that may limit this process, the innermost first.

    Args:
        controller: What is limited, by version 1's name: version 2 has one tree for all.
        cgroups: Where the cgroups are mounted.
        membership: The file that tells which of them this process is in.
    """
    mounts = {cgroups: "/", cgroups / controller: "/"}
    with suppress(OSError, ValueError):
        for line in membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                mounts[cgroups] = path
            elif controller in controllers.split(","):
                mounts[cgroups / controller] = path
    for mount, path in mounts.items():
        folder = mount / path.lstrip("/")
        # Where the container sees its own cgroup alone, that is the root, whatever its path.
        if ".." not in folder.parts and folder.is_dir():
            while folder != mount:
                yield folder
                folder = folder.parent
        yield mount
