"""How much memory there is, and is left, by the machine's files and the container's."""

from pathlib import Path

import pytest

from forwardpass.server.process.memory import Memory, available_bytes, memory

GIB = 1 << 30
V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"


def version_1(folder: str, limit: int, used: int, files: int = 0) -> dict[str, str]:
    """Returns the files of a cgroup of version 1 that has a limit."""
    values = str(limit), str(used), f"total_inactive_file {files}"
    return {f"memory{folder}/{name}": value for name, value in zip(V1, values, strict=True)}


def version_2(folder: str, limit: int | str, used: int, files: int = 0) -> dict[str, str]:
    """Returns the files of a cgroup of version 2."""
    return {
        f"{folder}memory.max": str(limit),
        f"{folder}memory.current": str(used),
        f"{folder}memory.stat": f"anon 1\ninactive_file {files}",
    }


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {}, Memory(9 * GIB, 4 * GIB)),
        ("0::/", version_2("", GIB, GIB // 2, GIB // 4), Memory(GIB, 3 * GIB // 4)),
        ("0::/", version_2("", "max", 5), Memory(9 * GIB, 4 * GIB)),
        ("0::/", version_2("", 5, 9), Memory(5, 0)),
        ("4:memory:/", version_1("", GIB, GIB // 2), Memory(GIB, GIB // 2)),
        # A service has a cgroup of its own, and what it lies in may be fuller.
        ("0::/a/b", version_2("a/b/", 2 * GIB, GIB), Memory(2 * GIB, GIB)),
        (
            "0::/a/b",
            version_2("a/b/", 2 * GIB, GIB) | version_2("a/", 3 * GIB, 5 * GIB // 2),
            Memory(2 * GIB, GIB // 2),
        ),
        ("4:memory:/a", version_1("/a", GIB, GIB // 2) | version_1("", 9 * GIB, 0), None),
    ],
)
def test_what_there_is(
    tmp_path: Path, membership: str, files: dict[str, str], expected: Memory | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    meminfo, member = tmp_path / "meminfo", tmp_path / "membership"
    meminfo.write_text(f"MemTotal:  {9 << 20} kB\nMemAvailable:  {4 << 20} kB\n")
    member.write_text(membership + "\n")
    assert memory(tmp_path, meminfo, member) == (expected or Memory(GIB, GIB // 2))


def test_this_machine_tells_it() -> None:
    found = memory()
    assert 0 < found.available <= found.limit
    assert available_bytes() > 0
