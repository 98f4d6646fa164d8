"""Every case that must be there is there, and `pytest -k` finds it by its number."""

import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
REQUIRED = {
    *range(1, 31),  # readiness, structure of a request
    *range(31, 46),  # sizes, frames
    *range(46, 75),  # overload, names, tokens, certificates
    *range(76, 86),  # metrics, versions
    *range(87, 96),  # hostile graphs, drain
    100,  # retries
    *(101, 102),  # what a call that has ended holds
    *range(103, 108),  # bounds, and shares
    111,  # idle connections
    *(113, 114, 115, 118),  # liveness, and an end that comes
    *(116, 119),  # pings, and the probes' own descriptors
    117,  # a request that ends the process
    *range(120, 123),  # readiness, and who is at fault
    123,  # workers that are started again
    *range(124, 130),  # files, links, and the sandbox that reads them
    *range(130, 133),  # the log
    *range(133, 139),  # doors: tokens, addresses, metrics, quotas
    139,  # a neighbour on the core
    *range(150, 155),  # what one token may have
}
# A number that begins a word: the t16 of uint16 is none.
NUMBER = re.compile(r"(?<![^\W_])t(\d{2,3})(?!\d)", re.IGNORECASE)


def test_every_case_is_found_by_its_number() -> None:
    folders = [TESTS / name for name in ("cases", "faults", "open_inference", "server")]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *map(str, folders)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    named: set[int] = set()
    for line in listed.stdout.splitlines():
        _, found, name = line.partition("::")
        if found:
            named.update(int(number) for number in NUMBER.findall(name))
    assert sorted(REQUIRED - named) == []
