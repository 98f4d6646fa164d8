"""The memory that threads share."""

import os
import re
import subprocess
import sys

import pytest
from onnx import TensorProto
from tiny_models import echo

# Has four threads take memory at the same time, and prints what glibc says of its arenas.
ARENAS = """
import ctypes, threading
from forwardpass.server.process.malloc import share_one_arena

share_one_arena()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
together = threading.Barrier(4)

def take():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.parametrize(("given", "shared"), [(None, True), ("4", False)])
def test_threads_share_an_arena_unless_the_operator_says_otherwise(
    given: str | None, shared: bool
) -> None:
    if "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        pytest.skip("only glibc has arenas")
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    if given is not None:
        environment["MALLOC_ARENA_MAX"] = given
    told = subprocess.run(
        [sys.executable, "-c", ARENAS], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert (len(re.findall("<heap nr=", told)) == 1) == shared


# Runs a model on 64 MiB, and prints how many MiB the process has after that, and with the arena
# shrunk.
LEFT_BEHIND = """
import sys
from pathlib import Path
import numpy as np
from forwardpass.server.onnx.run_memory import limit_run_memory
from forwardpass.server.onnx.session import Session, shrink_run_memory

def resident():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) >> 10

limit_run_memory(1 << 30)
session = Session(sys.stdin.buffer.read(), {}, 1)
numbers = np.ones(16 << 20, np.float32)
# The arena keeps its first piece for good, which a server takes as it tries its models.
for some in (numbers[:1], numbers):
    session.run(["y"], {"x": some})
before = resident()
shrink_run_memory()
print(before, resident())
"""


def test_what_runs_have_left_behind_is_given_back() -> None:
    graph = echo(TensorProto.FLOAT, ["n"]).graph.SerializeToString()
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], input=graph, check=True, capture_output=True
    )
    before, after = map(int, done.stdout.split())
    assert before - after >= 60
