"""The programs in examples/ do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from sklearn.datasets import load_digits
from tiny_models import Publisher
from training import Publish

from forwardpass.client import Client
from forwardpass.pixels import encode_png
from forwardpass.trainer.export.published import find_published

ROOT = Path(__file__).parents[2]
# The first that needs it waits until the recipe has trained.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def clone(tmp_path: Path, publish_once: Publish, repository: Publisher) -> Path:
    """A folder with the examples, a model that embeds, and pictures of digits, 40 of each."""
    folder = publish_once("mnist-resnet").folder
    shutil.copytree(folder, repository.root / "mnist-resnet" / "1")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    values, classes = load_digits(return_X_y=True)
    pixels = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    for label in range(10):
        home = tmp_path / "digits" / str(label)
        home.mkdir(parents=True)
        for number, image in enumerate(pixels[classes == label][:40]):
            (home / f"{number}.png").write_bytes(encode_png(image))
    (tmp_path / "digits" / "0" / "broken.png").write_bytes(b"x")
    return tmp_path


def run(clone: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "FORWARDPASS_SERVER"}
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=clone,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def served_accuracy(clone: Path, server: str) -> float:
    """Returns the share of the pictures that the new model names by their folders."""
    pictures = sorted(clone.glob("digits/*/[0-9]*.png"))
    with Client(server) as client:
        answer = client.predict("my-digits", images=pictures, top_k=1)
        assert client.embed("my-digits", images=pictures[:2]).vectors.shape[0] == 2
    named = [row[0].label for row in answer.classes]
    return float(
        np.mean([name == path.parent.name for name, path in zip(named, pictures, strict=True)])
    )


def test_a_classifier_of_ones_own(clone: Path, start_server: StartServer) -> None:
    program = ["examples/transfer.py", "digits", "models/mnist-resnet", "my-digits"]
    told = run(clone, *program)
    match = re.search(r"accuracy: ([0-9.]+) of 100 photographs that were held out", told)
    assert match is not None, told
    # One in ten by chance; the vectors are of a network that was hardly trained.
    assert float(match[1]) > 0.6
    assert served_accuracy(clone, start_server().address) > 0.8


def test_the_notebook_runs_from_top_to_bottom(clone: Path, start_server: StartServer) -> None:
    notebook = json.loads((ROOT / "examples" / "transfer.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    run(clone, "-c", "\n".join(cells))
    assert served_accuracy(clone, start_server().address) > 0.8


def test_a_module_of_ones_own(
    tmp_path: Path, repository: Publisher, start_server: StartServer
) -> None:
    told = run(tmp_path, str(ROOT / "examples" / "own_module.py"))
    match = re.fullmatch(r"models/wines/1, accuracy ([0-9.]+)\n", told)
    assert match is not None, told
    assert float(match[1]) > 0.9
    with Client(start_server().address) as client:
        wine = np.load(tmp_path / "wine.npy")
        answer = client.predict("wines", {"measurements": wine}, top_k=1)
    assert answer.classes[0][0].label in {"class_0", "class_1", "class_2"}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("forwardpass-train"))
    recipe = str(ROOT / "examples" / "own_recipe.py")
    run(tmp_path, program, "run", recipe, "epochs=4")
    published = find_published(tmp_path / "models", "own-recipe", None)
    # Told better than by the mean of what was learned from.
    assert published.card.metrics["r_squared"] > 0
