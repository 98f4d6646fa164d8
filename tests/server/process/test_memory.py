"""How much memory is left, by the machine's files and the container's."""

from pathlib import Path

import pytest

from forwardpass.server.process.memory import available_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4 * GIB),
        (
            {
                "memory.max": f"{GIB}",
                "memory.current": f"{GIB // 2}",
                "memory.stat": f"anon 1\ninactive_file {GIB // 4}",
            },
            3 * GIB // 4,
        ),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "inactive_file 0"}, 4 * GIB),
        (
            {"memory.max": "5", "memory.current": "9", "memory.stat": "inactive_file 0"},
            0,
        ),
        (
            {
                "memory/memory.limit_in_bytes": f"{GIB}",
                "memory/memory.usage_in_bytes": f"{GIB // 2}",
                "memory/memory.stat": "total_inactive_file 0",
            },
            GIB // 2,
        ),
    ],
)
def test_what_is_available(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000000 kB\nMemAvailable:  4194304 kB\n")
    assert available_bytes(tmp_path, meminfo) == expected


def test_this_machine_tells_it() -> None:
    assert available_bytes() > 0
