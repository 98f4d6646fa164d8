"""How long the faults take, and the table of what each of them left, which ends `make faults`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

MIB = 1 << 20
# Beyond what a test is expected to take, it is given this factor and these seconds.
_SLACK, _SPARE_SECONDS = 2.0, 120.0


@dataclass(frozen=True)
class Line:
    """What a row of the table tells.

    Attributes:
        row: Which fault.
        transport: Of the server.
        memory: Bytes that the server took after the first time, and after the last.
        p99: Seconds that 99 of 100 answers to unrelated callers took at most, of each time.
        right: How many answers they had, each of them with the right numbers.
        lost: How many calls of theirs had no answer, or a wrong one.
    """

    row: str
    transport: str
    memory: tuple[int, ...] = ()
    p99: tuple[float, ...] = ()
    right: int = 0
    lost: int = 0


Tell = Callable[[Line], None]
LINES = pytest.StashKey[list[Line]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


@pytest.fixture
def seconds(pytestconfig: pytest.Config) -> float:
    """How long a fault lasts; 0 where it only has to be seen once."""
    chosen: float = pytestconfig.getoption("--fault-seconds")
    return chosen


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Tell:
    """Adds a line to the table."""
    return pytestconfig.stash[LINES].append


def expected_seconds(item: pytest.Item, each: float) -> float | None:
    """Returns how long a test takes where each fault lasts `each` seconds; None: not known."""
    marker = item.get_closest_marker("lasts")
    if marker is None:
        return None
    fixed, times = marker.args
    return float(fixed + times * each)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bounds each fault's time."""
    each: float = config.getoption("--fault-seconds")
    if each:
        for item in items:
            bound = _SLACK * (expected_seconds(item, each) or 0) + _SPARE_SECONDS
            item.add_marker(pytest.mark.timeout(bound))


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Says how long it will take."""
    each: float = config.getoption("--fault-seconds")
    if not each:
        return []
    times = {item.nodeid: expected_seconds(item, each) for item in items}
    minutes = sum(seconds or 0 for seconds in times.values()) / 60
    unknown = [f"not known: {name}" for name, seconds in times.items() if seconds is None]
    return [f"{each:g} s for each fault: {minutes:.0f} minutes in all", *unknown]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the table."""
    lines = config.stash[LINES]
    if not lines or not config.getoption("--fault-seconds"):
        return
    heads = "row", "transport", "MiB first / last", "p99 of others, s", "right", "lost"
    table = Table(*heads, title="What each fault left to others")
    for line in lines:
        memory = " / ".join(f"{used / MIB:.0f}" for used in line.memory)
        p99 = " / ".join(f"{seconds:.2f}" for seconds in line.p99)
        table.add_row(line.row, line.transport, memory, p99, str(line.right), str(line.lost))
    terminalreporter.section("faults")
    Console(width=100).print(table)
