"""Pictures in folders, and a model of them in a repository."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from looking_models import looks
from run_commands import Command
from tiny_models import Publisher

from forwardpass.pixels import encode_png

MakePictures = Callable[..., Path]


@pytest.fixture
def transport() -> str:
    """One of them: which one answers a job is no matter to it."""
    return "completion_queue"


@pytest.fixture
def command(run_command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command line in a folder of the test's, with no server named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORWARDPASS_SERVER", raising=False)
    return run_command


@pytest.fixture
def pictures(tmp_path: Path) -> MakePictures:
    """Writes numbered PNG files into folders of two labels."""

    def make(count: int, name: str = "photos") -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(count)
        for number in range(count):
            path = root / ("cats", "dogs")[number % 2] / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(rng.integers(0, 256, (8, 9, 3), np.uint8)))
        return root

    return make


@pytest.fixture
def model(repository: Publisher) -> Path:
    """The folder of a model of pictures."""
    repository("looks", looks())
    return repository.root / "looks"
