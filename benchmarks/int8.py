"""Measures what int8 gains: a ResNet with random weights, in float and in int8. Prints a table.

ONNX Runtime alone, without the server, with the session options that the server uses: one thread,
no spinning. The process keeps to one core, and the two versions take turns.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.networks import DEPTHS, FLOAT, INT8, publish_resnet
from forwardpass.artefact import MODEL_FILE
from forwardpass.server.onnx.session import Session
from forwardpass.trainer.models.resnet import IMAGENET_DEPTHS

ROWS = 8


def measure(home: Path, rounds: int) -> list[list[float]]:
    """Returns images per second, for each round those of each version, which take turns."""
    files = [home / str(version) / MODEL_FILE for version in (FLOAT, INT8)]
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 224, 224, 3), dtype=np.uint8)
    sessions = [Session(file.read_bytes(), {}, threads=1) for file in files]
    outputs = ["logits", "embedding"]
    for session in sessions:
        session.run(outputs, {"image": images})
    measured = []
    for _ in range(rounds):
        row = []
        for session in sessions:
            before = time.perf_counter()
            session.run(outputs, {"image": images})
            row.append(ROWS / (time.perf_counter() - before))
        measured.append(row)
    return measured


def main() -> None:
    """Measures, and prints what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("models", type=Path, help="where the networks are published")
    parser.add_argument("--depth", type=int, nargs="+", choices=IMAGENET_DEPTHS, default=DEPTHS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    networks = {depth: publish_resnet(depth, arguments.models) for depth in arguments.depth}
    os.sched_setaffinity(0, {arguments.core})
    table = Table("network", "float", "int8", "ratio", "lowest and highest ratio of a round")
    for depth, home in networks.items():
        measured = measure(home, arguments.rounds)
        rates = [statistics.median(column) for column in zip(*measured, strict=True)]
        ratios = sorted(int8 / exact for exact, int8 in measured)
        table.add_row(
            f"resnet-{depth}",
            *(f"{rate:.1f} images/s" for rate in rates),
            f"{statistics.median(ratios):.2f}",
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        )
    print(f"ONNX Runtime alone, batches of {ROWS}, one thread, core {arguments.core}; medians of")
    print(f"{arguments.rounds} rounds. Load of the machine meanwhile: {os.getloadavg()[0]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
