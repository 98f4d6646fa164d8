"""What is given to a model: the same batches always, alone, and where they lie."""

import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from numpy.typing import NDArray
from tiny_models import Publisher

from forwardpass.client import Client
from forwardpass.client.jobs.listing import Listing
from forwardpass.client.jobs.pipeline import Pipeline
from forwardpass.client.jobs.plan import Wishes, plan_for, takes
from forwardpass.client.jobs.server_embedder import Patience, ServerEmbedder
from forwardpass.client.jobs.sources import Sources, list_rows
from forwardpass.client.local import LocalEmbedder, find_version
from forwardpass.wire import Array

from .conftest import MakePictures


class Recording(LocalEmbedder):
    """Keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: list[Array] = []
        self._kept = threading.Lock()

    def embed(self, name: str, rows: Array) -> NDArray[np.float32]:
        with self._kept:
            self.given.append(rows)
        return super().embed(name, rows)


def listed(root: Path, embedder: LocalEmbedder) -> Listing:
    return list_rows(Sources([bytes(root)]), takes(embedder.subject), "looks")


def test_every_batch_is_full_and_what_is_missing_is_zero(
    model: Path, pictures: MakePictures
) -> None:
    root = pictures(20)
    (root / "cats" / "00004.png").write_bytes(b"broken")
    embedder = Recording(find_version(model))
    listing = listed(root, embedder)
    plan = plan_for(listing, embedder.subject, Wishes())
    pipeline = Pipeline(listing, plan, embedder)
    parts = list(pipeline.embed(range(20)))
    pipeline.close()
    assert [part.rows for part in parts] == [range(16), range(16, 20)]
    assert plan.batch_rows == 16
    # In whatever order two threads have come to it.
    first, last = sorted(embedder.given, key=lambda rows: not rows[5].any())
    assert first.shape == last.shape == (16, 6, 5, 3)
    assert [bool(row.any()) for row in first] == [row != 2 for row in range(16)]
    assert [bool(row.any()) for row in last] == [row < 4 for row in range(16)]
    assert [error is None for error in parts[0].errors] == [row != 2 for row in range(16)]


def test_rows_given_to_a_run_begin_at_a_multiple_of_64_bytes(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = LocalEmbedder(find_version(model))
    session, places = embedder._session, []

    class Session:
        def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
            places.append(inputs["image"].ctypes.data % 64)
            found: list[Array] = session.run(outputs, inputs)
            return found

    monkeypatch.setattr(embedder, "_session", Session())
    buffer = np.arange(16 * 90 + 64, dtype=np.uint8)
    answers = [
        embedder.embed("image", buffer[begin : begin + 16 * 90].reshape(16, 6, 5, 3))
        for begin in (1, 16, 33)
    ]
    assert places == [0, 0, 0]
    assert not np.array_equal(answers[0], answers[1])


def test_a_job_has_its_rows_run_alone(
    start_server: StartServer, repository: Publisher, model: Path
) -> None:
    asked: list[object] = []

    class Asking(Client):
        def embed(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            asked.append(options["alone"])
            return super().embed(*arguments, **options)  # type: ignore[arg-type]

        def embed_stream(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            asked.append(options["alone"])
            return super().embed_stream(*arguments, **options)  # type: ignore[arg-type]

    assert model.parent == repository.root
    embedder = ServerEmbedder(Asking(start_server().address), "looks", None, Patience(5))
    rows = np.ones((3, 6, 5, 3), np.uint8)
    vectors = embedder.embed("image", rows)
    # While one batch is on the stream that names the version, others go by calls.
    with embedder._naming:
        np.testing.assert_array_equal(embedder.embed("image", rows), vectors)
    embedder.close()
    assert vectors.shape == (3, 4)
    assert asked == [True, True]
