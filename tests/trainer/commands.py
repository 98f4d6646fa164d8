"""Runs `forwardpass-train` as a process of its own, without the seconds that torch takes."""

import json
import os
import subprocess
import sys
from atexit import register
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

# Makes each line a process that has loaded what all commands load, and answers with how it ended.
_PARENT = """
import json, os, resource, sys
import forwardpass.trainer.recipes.digits_mlp

def run(folder, environment, size, before, arguments, *outputs):
    for number, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    exec(before, {})
    sys.argv = ["forwardpass-train", *arguments]
    # Not before: it looks at the environment.
    from forwardpass.trainer.cli import main
    main()

for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.exit(run(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _parent() -> "subprocess.Popen[str]":
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    register(parent.kill)
    return parent


def train(
    folder: Path | None,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    size: int = 0,
    before: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end.

    Args:
        folder: Where; here where None.
        arguments: What is typed after `forwardpass-train`.
        environment: What differs from this process's.
        size: In bytes, what no file may become larger than; 0 for any.
        before: Python that the process runs first.
    """
    parent = _parent()
    assert parent.stdin
    assert parent.stdout
    with TemporaryDirectory() as place, ThreadPoolExecutor(2) as readers:
        # Pipes, as a file's size may be limited.
        outputs = [Path(place) / name for name in ("out", "err")]
        for output in outputs:
            os.mkfifo(output)
        texts = [readers.submit(output.read_text) for output in outputs]
        order = [
            str(folder or Path.cwd()),
            {**os.environ, **(environment or {})},
            size,
            before,
            arguments,
            *map(str, outputs),
        ]
        parent.stdin.write(json.dumps(order) + "\n")
        parent.stdin.flush()
        code = int(parent.stdout.readline())
        return subprocess.CompletedProcess(
            ["forwardpass-train", *arguments], code, *(text.result() for text in texts)
        )
