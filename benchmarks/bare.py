"""ONNX Runtime alone, in a process of its own on the servers' core."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from benchmarks.serving import SERVER_CORES, pinned
from forwardpass.server.onnx.session import Session
from forwardpass.wire import Array


def answers(file: Path, name: str, arrays: Iterable[Array], output: str) -> list[Array]:
    """Returns what is right: what ONNX Runtime gives here.

    Args:
        file: The graph.
        name: Of its input.
        arrays: Its input, for a run each.
        output: The output wanted.
    """
    session = Session(file.read_bytes(), {}, 1)
    return [session.run([output], {name: array})[0] for array in arrays]


class Bare:
    """A loop around `Session.run` with one input, and nothing else.

    Args:
        file: The graph.
        name: Of its input.
        array: A file with the input, as `numpy.save` writes it.
        output: The output wanted.
    """

    def __init__(self, file: Path, name: str, array: Path, output: str) -> None:
        module = [sys.executable, "-m", "benchmarks.peers.runtime"]
        self._process = subprocess.Popen(
            pinned([*module, str(file), name, str(array), output], SERVER_CORES),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._process.communicate()

    def seconds(self, runs: int) -> float:
        """Returns how long so many runs take.

        Raises:
            SystemExit: The process has ended; why has been printed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(runs, file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())
        except (OSError, ValueError):
            raise SystemExit(f"ONNX Runtime alone ended with {self._process.wait()}") from None
