"""ONNX Runtime alone: `python -m benchmarks.peers.runtime FILE INPUT ARRAY OUTPUT`.

No server: what one can do at most. For each number on standard input it runs the graph so many
times, and prints how many seconds that took.
"""

import sys
import time
from pathlib import Path

import numpy as np

from forwardpass.server.onnx.session import Session
from forwardpass.server.process.cores import available_cores


def main() -> None:
    """Runs until its input ends."""
    file, name, array, output = sys.argv[1:]
    # The server's own session: the same options, and as many threads.
    session = Session(Path(file).read_bytes(), {}, available_cores())
    inputs = {name: np.load(array)}
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            session.run((output,), inputs)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
