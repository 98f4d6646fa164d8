"""`forwardpass-serve check` in a process that may do less than this one: limits, capabilities.

Run as a program, it confines itself, and becomes the command that it is given.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of linux/prctl.h and linux/capability.h.
_DROP_FROM_BOUNDING_SET = 24
OVERRIDE_MODES, SEARCH_ANYTHING, RAISE_LIMITS = 1, 2, 24


def check(
    root: Path,
    *flags: str,
    without: Sequence[int] = (),
    soft: Mapping[int, int] | None = None,
    hard: Mapping[int, int] | None = None,
    **environment: str,
) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Checks a repository.

    Args:
        root: The repository.
        flags: What the command is told beside.
        without: Capabilities that root has and the command has not; others than root have none.
        soft: Limits that the command may lift, by their number in `resource`.
        hard: Limits that it may not lift, unless it has RAISE_LIMITS.
        environment: What its environment has beside.

    Returns:
        The exit code, the line of each model by its name, and what stands on stderr.
    """
    limits = [[kind, most, resource.RLIM_INFINITY] for kind, most in (soft or {}).items()]
    limits += [[kind, most, most] for kind, most in (hard or {}).items()]
    code = "from forwardpass.server.cli import main; main()"
    command = [sys.executable, "-c", code, "check", str(root), "--threads", "1", *flags]
    ended = subprocess.run(
        [sys.executable, __file__, json.dumps([list(without), limits]), *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = map(json.loads, ended.stdout.splitlines())
    return ended.returncode, {line["model"]: line for line in lines}, ended.stderr


def _confine(capabilities: Sequence[int], limits: Sequence[Sequence[int]]) -> None:
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0:
        for one in capabilities:
            assert libc.prctl(_DROP_FROM_BOUNDING_SET, one, 0, 0, 0) == 0
    for kind, soft, most in limits:
        resource.setrlimit(kind, (soft, most))


if __name__ == "__main__":
    _confine(*json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
