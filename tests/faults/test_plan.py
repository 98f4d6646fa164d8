"""`make faults` takes an hour at most, as what is collected for it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = 60


@pytest.mark.lasts(10, 0)
def test_all_faults_take_an_hour_at_most() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seconds = re.search(r"^SECONDS \?= (\d+)$", makefile, re.MULTILINE)
    recipe = re.search(r"^faults: .*\n\t.* -m pytest (.*) \\$", makefile, re.MULTILINE)
    assert seconds is not None
    assert recipe is not None
    chosen = [*recipe[1].split(), f"--fault-seconds={seconds[1]}"]
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    minutes = re.search(r"(\d+) minutes in all", listed)
    assert minutes is not None
    assert 0 < int(minutes[1]) <= MINUTES
    # Of each it is known how long it takes.
    assert "not known" not in listed
