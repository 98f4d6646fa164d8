"""The CPU quota, wherever in the tree of cgroups it stands."""

import os
from pathlib import Path

import pytest

from forwardpass.server.process.cores import available_cores

V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def write(folder: Path, files: dict[str, str]) -> Path:
    """Writes files by their paths, and returns the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n", encoding="ascii")
    return folder


def quota(at: str, cores: float) -> dict[str, str]:
    """Returns the files of version 1 that limit a cgroup."""
    values = "-1" if cores < 0 else str(int(cores * 100_000)), "100000"
    return {f"cpu{at}/{name}": value for name, value in zip(V1, values, strict=True)}


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        # The root is all that a container sees of version 2, and a quota there is its own.
        ("0::/", {"cpu.max": "300000 100000"}, 3),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        # A service of systemd has its own cgroup, and so has the slice that it lies in.
        ("0::/system.slice/a.service", {"system.slice/a.service/cpu.max": "200000 100000"}, 2),
        (
            "0::/a/b",
            {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"},
            3,
        ),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2),
        # Another's is none of ours.
        ("0::/a", {"a/cgroup.procs": "", "b/cpu.max": "100000 100000"}, None),
        ("0::/../b", {"cpu.max": "300000 100000", "b/cpu.max": "100000 100000"}, 3),
        ("4:cpu,cpuacct:/", quota("", 2), 2),
        ("4:cpu,cpuacct:/", quota("", -1), None),
        ("4:cpu,cpuacct:/a/b\n0::/a", quota("/a/b", 3) | quota("/a", 2) | quota("", -1), 2),
        ("4:cpu:/a/b\n2:cpuset:/c", quota("/a/b", 3) | quota("/a", -1) | quota("/c", 1), 3),
        # A container of version 1 is told a path that it does not see: it sees itself as the root.
        ("4:cpu:/docker/0123", quota("", 3), 3),
        ("4:cpu:/docker/0123", {}, None),
        ("", {"cpu.max": "200000 100000"}, 2),
    ],
)
def test_t137_the_smallest_quota_on_the_way_to_the_own_cgroup_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    cores: int | None,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    mounts = write(tmp_path / "cgroup", files)
    own = write(tmp_path, {"membership": membership}) / "membership"
    assert available_cores(mounts, own) == (cores or 8)


def test_without_cgroups_it_is_the_cores_that_we_may_run_on(tmp_path: Path) -> None:
    own = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path / "nothing", tmp_path / "nowhere") == own
