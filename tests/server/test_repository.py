"""Half-copied, altered and unmanifested versions: the last good one serves, and says why."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from onnx import TensorProto
from tiny_models import Publisher, TinyModel, classifier, echo, embedder

from forwardpass.artefact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Golden,
    save_golden,
    write_manifest,
)
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_DISCOVERED,
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
    ListModelsRequest,
    ModelReference,
    ModelSummary,
)
from forwardpass.wire import Reason, to_tensor

REQUEST = PredictRequest(
    model=ModelReference(name="clf"),
    inputs={"image": to_tensor(np.zeros((1, 4, 4, 1), np.uint8))},
)


def states(running: Running) -> dict[tuple[str, int], ModelSummary]:
    models = running.models.ListModels(ListModelsRequest()).models
    return {(summary.model.name, summary.model.version): summary for summary in models}


def test_the_newest_version_serves(repository: Publisher, start_server: StartServer) -> None:
    for version in (1, 2, 10):
        repository("clf", classifier(), version)
    running = start_server()
    assert running.inference.Predict(REQUEST).model.version == 10
    assert [number for _, number in states(running)] == [10, 2, 1]
    assert states(running)["clf", 2].state == MODEL_STATE_DISCOVERED
    older = PredictRequest(model=ModelReference(name="clf", version=2))
    failure = failure_of(running.inference.Predict, older)
    assert failure.reason is Reason.MODEL_NOT_FOUND
    assert "is not served; another is" in failure.message


def cut_short(folder: Path) -> None:
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-100])


def altered(folder: Path) -> None:
    path = folder / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


def without_model(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()


def with_an_extra_file(folder: Path) -> None:
    (folder / "extra").write_bytes(b"")


def with_another_answer(folder: Path) -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    wrong = np.array([[0.5, 0.25, 0.25]] * 2, np.float32)
    save_golden(folder / GOLDEN_FILE, Golden({"image": images}, {"probabilities": wrong}))
    write_manifest(folder)


def with_foreign_golden_data(folder: Path) -> None:
    (folder / GOLDEN_FILE).write_bytes(b"no zip file")
    write_manifest(folder)


def no_onnx(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(np.random.default_rng(0).bytes(4096))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, "model.onnx has "),
        (altered, "model.onnx has been altered: its SHA-256 differs"),
        (without_manifest, "has no manifest.json, which its siblings have"),
        (without_model, "model.onnx is missing: the copy is not complete"),
        (with_an_extra_file, "extra is not in manifest.json"),
        (with_another_answer, "golden check: output 'probabilities' is "),
        (with_foreign_golden_data, "golden.npz cannot be read"),
        (no_onnx, "the file is not an ONNX model"),
    ],
)
def test_the_last_good_version_serves_and_the_bad_one_says_why(
    repository: Publisher, start_server: StartServer, damage: object, reason: str
) -> None:
    repository("clf", classifier(), 1)
    newest = repository("clf", classifier(bias=1.0), 2)
    assert callable(damage)
    damage(newest)
    running = start_server()
    assert running.inference.Predict(REQUEST).model.version == 1
    seen = states(running)
    assert seen["clf", 1].state == MODEL_STATE_READY
    assert seen["clf", 2].state == MODEL_STATE_FAILED
    assert reason in seen["clf", 2].state_reason
    pinned = PredictRequest(model=ModelReference(name="clf", version=2))
    failure = failure_of(running.inference.Predict, pinned)
    assert failure.reason is Reason.MODEL_FAILED
    assert reason in failure.message


def test_a_copy_in_progress_is_never_served(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    """Each prefix of a file-by-file copy, in the worst order: the manifest first."""
    repository("clf", classifier(), 1)
    whole = Publisher(tmp_path / "elsewhere")("clf", classifier(bias=1.0), 2)
    half = repository.root / "clf" / "2"
    for names in ([], [MANIFEST_FILE], [MANIFEST_FILE, GOLDEN_FILE]):
        half.mkdir()
        for name in names:
            shutil.copy(whole / name, half / name)
        running = start_server()
        assert running.inference.Predict(REQUEST).model.version == 1
        assert states(running)["clf", 2].state == MODEL_STATE_FAILED
        shutil.rmtree(half)
    shutil.copytree(whole, half)
    assert start_server().inference.Predict(REQUEST).model.version == 2


def test_a_card_that_does_not_fit_the_graph_is_refused(
    repository: Publisher, start_server: StartServer
) -> None:
    wrong = embedder()
    assert wrong.card is not None
    wrong.card.signature.inputs[0].shape[1] = 5
    repository("emb", TinyModel(wrong.graph, wrong.card))
    reason = states(start_server())["emb", 1].state_reason
    assert (
        reason
        == "input 'features' is float32 [-1, 5] on the card, but float32 [-1, 4] in the graph"
    )


def test_a_plain_onnx_file_serves_with_the_signature_of_its_graph(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("plain", echo(TensorProto.DOUBLE, [2, "n"]))
    request = PredictRequest(
        model=ModelReference(name="plain"), inputs={"x": to_tensor(np.ones((2, 3)))}
    )
    assert start_server().inference.Predict(request).outputs["y"] == to_tensor(np.ones((2, 3)))


def test_with_verify_require_a_plain_onnx_file_is_refused(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("plain", echo(TensorProto.DOUBLE, [2, "n"]))
    running = start_server(verify="require")
    assert states(running)["plain", 1].state == MODEL_STATE_FAILED


def test_what_is_no_model_is_passed_over(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("clf", classifier())
    outside = Publisher(tmp_path / "outside")("evil", classifier())
    (repository.root / "link").symlink_to(outside.parent)
    (repository.root / "clf" / "7").symlink_to(outside)
    (repository.root / "clf" / "02").mkdir()
    (repository.root / "clf" / "latest").mkdir()
    (repository.root / "empty").mkdir()
    (repository.root / "file").write_bytes(b"")
    (repository.root / ".tmp-123").mkdir()
    assert states(start_server()).keys() == {("clf", 1)}
