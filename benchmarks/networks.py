"""Networks on images, in float and in int8, published once and kept: making them takes minutes.

`python -m benchmarks.networks FOLDER DEMO` publishes those that `embedding` measures.
"""

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from forwardpass.artefact import ManifestError, verify_manifest

LENET = "mnist-cnn"
DEPTHS = (18, 50)
FLOAT, INT8 = 1, 2
# Both versions of a model are served, not the newest alone.
_CONFIG = "version_policy { all {} }\n"


def publish_resnet(depth: int, folder: Path) -> Path:
    """Returns the folder of a ResNet with random weights: version 1 is float, version 2 int8.

    Made where it is not there yet.

    Raises:
        SystemExit: A folder of that name is there, but not whole.
    """
    from forwardpass.trainer.training.progress import Reporter
    from forwardpass.trainer.training.workspace import Workspace
    from forwardpass.trainer.untrained import publish_untrained, quantize_untrained
    from forwardpass.trainer.zoo import find_architecture

    home = folder / f"resnet-{depth}"
    if not home.exists():
        quiet = Reporter(Console(file=io.StringIO()))
        workspace = Workspace(models=folder, runs=folder, cache=folder, reporter=quiet)
        published = publish_untrained(find_architecture(f"resnet-{depth}"), workspace)
        quantize_untrained(published, workspace)
    return _whole(home)


def publish_lenet(demo: Path, folder: Path) -> Path:
    """Returns the folder of the demo's LeNet, likewise; int8 is made of the newest version.

    Raises:
        SystemExit: A folder of that name is there, but not whole.
        subprocess.CalledProcessError: It cannot be quantised; why has been printed.
    """
    home = folder / LENET
    if not home.exists():
        newest = max((demo / LENET).glob("*/manifest.json"), key=lambda path: int(path.parent.name))
        shutil.copytree(newest.parent, home / str(FLOAT))
        program = str(Path(sys.executable).with_name("forwardpass-train"))
        subprocess.run([program, "quantize", LENET, "--models", str(folder)], check=True)
    return _whole(home)


def _whole(home: Path) -> Path:
    try:
        for version in (FLOAT, INT8):
            verify_manifest(home / str(version))
    except (ManifestError, FileNotFoundError) as error:
        raise SystemExit(f"{home} is not whole; delete it and run this again: {error}") from None
    (home / "config.pbtxt").write_text(_CONFIG, encoding="ascii")
    return home


def main() -> None:
    """Publishes what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to publish")
    parser.add_argument("demo", type=Path, help="the demo's repository")
    given = parser.parse_args()
    for depth in DEPTHS:
        publish_resnet(depth, given.folder)
    publish_lenet(given.demo, given.folder)


if __name__ == "__main__":
    main()
