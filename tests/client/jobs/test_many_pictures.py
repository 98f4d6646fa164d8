"""60,000 pictures: killed at 20 random points, and with servers killed and replaced meanwhile."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from looking_models import looks
from PIL import Image
from pyarrow import parquet
from tiny_models import Publisher

from .server_processes import Servers

if TYPE_CHECKING:
    from training import MakeWorkspace

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]
KILLS = 20
SEED = 20261128
_CODE = "from forwardpass.client.cli import main; main()"


@pytest.fixture
def photos(make_workspace: "MakeWorkspace", tmp_path: Path) -> Path:
    """All of CIFAR-10 as JPEG files, a folder for each class."""
    from forwardpass.trainer.data import cifar10

    workspace = make_workspace(models=tmp_path / "m", runs=tmp_path / "r")
    data = cifar10.load(workspace.cache, workspace.reporter, 0)
    root = tmp_path / "photos"
    number = 0
    for split in (data.train, data.validation, data.test):
        for image, index in zip(split.inputs, split.targets, strict=True):
            path = root / data.labels[int(index)] / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()
            Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=90)
            path.write_bytes(file.getvalue())
            number += 1
    return root


@pytest.fixture
def servers(repository: Publisher) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(repository.root, stack)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "FORWARDPASS_SERVER"}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, "embed", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()


def table(out: Path) -> pa.Table:
    return parquet.read_table(out / "vectors").sort_by([("path", "ascending")])


def done(out: Path) -> int:
    folder = out / "vectors"
    return sum(path.suffix == ".parquet" for path in folder.iterdir()) if folder.exists() else 0


def check(out: Path) -> None:
    finish(start("--check", out))
    assert table(out).num_rows == 60_000


def test_sixty_thousand_pictures_survive_twenty_kills(
    photos: Path, repository: Publisher, tmp_path: Path
) -> None:
    repository("looks", looks())
    model, whole, out = repository.root / "looks", tmp_path / "whole", tmp_path / "out"
    began = time.monotonic()
    finish(start(photos, "--model", model, "--out", whole))
    seconds = time.monotonic() - began
    rng = np.random.default_rng(SEED)
    for _ in range(KILLS):
        process = start(photos, "--model", model, "--out", out)
        # Anywhere: while it is listed, between two shards, while one is written.
        with_luck = float(rng.uniform(0, 2 + seconds / KILLS))
        try:
            process.wait(with_luck)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    finish(start(photos, "--model", model, "--out", out))
    check(out)
    assert table(out).equals(table(whole))


def test_sixty_thousand_pictures_outlive_servers_and_a_version(
    photos: Path, repository: Publisher, servers: Servers, tmp_path: Path
) -> None:
    repository("looks", looks())
    whole, out = tmp_path / "whole", tmp_path / "out"
    servers.start()
    finish(start(photos, "--model", "looks", "--out", whole, "--server", servers.address))
    rng = np.random.default_rng(SEED)
    process = start(photos, "--model", "looks", "--out", out, "--server", servers.address)
    for turn, shards in enumerate((10, 25, 40)):
        while done(out) < shards:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        servers.kill()
        if turn == 1:
            # The same vectors.
            repository("looks", looks(), version=2)
        time.sleep(float(rng.uniform(0, 20)))
        servers.start()
    finish(process)
    check(out)
    assert table(out).equals(table(whole))
