"""Measures what int8 gains: a ResNet with random weights, in float and in int8. Prints a table.

ONNX Runtime alone, without the server, with the session options that the server uses: one thread,
no spinning. The process keeps to one core, and the two versions take turns.
"""

import argparse
import io
import os
import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from forwardpass.artefact import MODEL_FILE, verify_manifest
from forwardpass.server.runtime.session import Session
from forwardpass.trainer.export.untrained import publish_untrained, quantize_untrained
from forwardpass.trainer.models.resnet import IMAGENET_DEPTHS
from forwardpass.trainer.progress import Reporter
from forwardpass.trainer.workspace import Workspace
from forwardpass.trainer.zoo import find_architecture

ROWS = 8


def publish(depth: int, models: Path) -> tuple[Path, Path]:
    """Returns the folders of the float and the int8 version, made where they are not there yet."""
    home = models / f"resnet-{depth}"
    if not (home / "2").exists():
        if home.exists():
            raise SystemExit(f"{home} is not whole, or not ours; delete it and run this again")
        quiet = Reporter(Console(file=io.StringIO()))
        architecture = find_architecture(f"resnet-{depth}")
        workspace = Workspace(models=models, runs=models, cache=models, reporter=quiet)
        quantize_untrained(publish_untrained(architecture, workspace), workspace)
    for version in ("1", "2"):
        verify_manifest(home / version)
    return home / "1", home / "2"


def measure(folders: tuple[Path, Path], rounds: int) -> list[list[float]]:
    """Returns images per second, for each round those of each version, which take turns."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 224, 224, 3), dtype=np.uint8)
    sessions = [Session((folder / MODEL_FILE).read_bytes(), {}, threads=1) for folder in folders]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="where the networks are published")
    parser.add_argument("--depth", type=int, nargs="+", choices=IMAGENET_DEPTHS, default=[18, 50])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    networks = {depth: publish(depth, arguments.models) for depth in arguments.depth}
    os.sched_setaffinity(0, {arguments.core})
    table = Table("network", "float", "int8", "ratio", "lowest and highest ratio of a round")
    for depth, folders in networks.items():
        measured = measure(folders, arguments.rounds)
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
