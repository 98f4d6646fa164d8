"""Files of a loaded version that change: they are loaded as new, and what was loaded serves on."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases.harness import load, manage
from conftest import Running, StartServer
from failures import failure_of
from tiny_models import CLASSIFIER_WEIGHTS, Publisher, TinyModel, classifier, softmax

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, write_manifest
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_READY,
    GetModelRequest,
    ListModelsRequest,
    ModelReference,
    ModelSummary,
)
from forwardpass.wire import Reason, from_tensor, to_tensor

IMAGE = np.full((1, 4, 4, 1), 100, np.uint8)
PREDICT = PredictRequest(model=ModelReference(name="clf"), inputs={"image": to_tensor(IMAGE)})


def bias_that_answers(running: Running) -> float:
    """The bias with which the classifier that answers was published."""
    answer = from_tensor(running.inference.Predict(PREDICT).outputs["probabilities"])
    flat = IMAGE.reshape(1, 16) / np.float32(255)
    for bias in (0.0, 1.0, 2.0):
        offsets = np.array([0, 0, bias], np.float32)
        if np.allclose(answer, softmax(flat @ CLASSIFIER_WEIGHTS + offsets), atol=1e-5):
            return bias
    raise AssertionError(answer)


def summary(running: Running) -> ModelSummary:
    (one,) = running.models.ListModels(ListModelsRequest()).models
    return one


def replace(repository: Publisher, tiny: TinyModel, tmp_path: Path) -> None:
    """Has the files of version 1 replaced, each by a rename."""
    aside = tmp_path / "aside"
    made = Publisher(aside)("clf", tiny)
    for path in made.iterdir():
        path.replace(repository.root / "clf" / "1" / path.name)
    made.rmdir()
    made.parent.rmdir()
    aside.rmdir()


def test_t127_a_file_that_is_replaced_is_loaded_on_request(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("clf", classifier())
    running = start_server(management_port=0)
    request = GetModelRequest(model=ModelReference(name="clf"))
    before = running.models.GetModel(request).model.digest
    replace(repository, classifier(bias=1), tmp_path)
    assert bias_that_answers(running) == 0
    with manage(running) as stub:
        load(stub, "clf", 1)
    assert bias_that_answers(running) == 1
    assert running.models.GetModel(request).model.digest != before
    # What has not changed is not loaded again.
    version = running.server._repository.models["clf"].versions[0]
    loaded = version.loaded
    running.server._repository.reconcile(settle=True)
    assert version.loaded is loaded


def test_t127_a_link_that_is_swapped_is_loaded_by_the_watcher(
    repository: Publisher, start_server: StartServer
) -> None:
    for number in (1, 2):
        Publisher(repository.root / f"..{number}")("clf", classifier(bias=number))
    (repository.root / "..data").symlink_to("..1")
    (repository.root / "clf").symlink_to("..data/clf")
    running = start_server(watch=True)
    assert bias_that_answers(running) == 1
    changed = threading.Event()
    forget = running.server.readiness.watch(changed.set)
    (repository.root / "..next").symlink_to("..2")
    (repository.root / "..next").replace(repository.root / "..data")
    while bias_that_answers(running) != 2:
        assert changed.wait(60)
        changed.clear()
    forget()
    assert summary(running).state == MODEL_STATE_READY


def cut_short(folder: Path) -> None:
    path = folder / "1" / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-100])
    write_manifest(folder / "1")


def without_golden_data(folder: Path) -> None:
    (folder / "1" / GOLDEN_FILE).unlink()


def wrong_configuration(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("max_batch_size: -1")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_short, ""),
        (without_golden_data, "golden.npz is missing"),
        (wrong_configuration, "max_batch_size is -1"),
    ],
)
def test_t127_what_does_not_pass_is_not_taken_up_and_the_old_one_serves(
    repository: Publisher,
    start_server: StartServer,
    damage: Callable[[Path], None],
    reason: str,
    tmp_path: Path,
) -> None:
    folder = repository("clf", classifier()).parent
    running = start_server(management_port=0)
    damage(folder)
    with manage(running) as stub:
        failure = failure_of(load, stub, "clf", 1)
        assert failure.reason is Reason.MODEL_FAILED
        seen = summary(running)
        assert seen.state == MODEL_STATE_READY
        assert "its files have changed, and are not taken up: " in seen.state_reason
        assert reason in seen.state_reason
        assert bias_that_answers(running) == 0
        assert running.server.readiness.ready
        if damage is wrong_configuration:
            # As before is good again, and nothing is loaded for it.
            (folder / "config.pbtxt").unlink()
            load(stub, "clf", 1)
            assert summary(running).state_reason == ""
        # Once they are made good, they are taken.
        (folder / "config.pbtxt").unlink(missing_ok=True)
        replace(repository, classifier(bias=2), tmp_path)
        load(stub, "clf", 1)
    assert bias_that_answers(running) == 2
    assert summary(running).state_reason == ""


def test_t127_a_configuration_that_changes_is_taken_up(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("clf", classifier()).parent
    running = start_server()
    request = GetModelRequest(model=ModelReference(name="clf"))
    assert running.models.GetModel(request).model.signature.max_rows == 64
    (folder / "config.pbtxt").write_text("max_batch_size: 8")
    running.server._repository.reconcile(settle=True)
    assert running.models.GetModel(request).model.signature.max_rows == 8
    # Which versions serve is no reason to load one again.
    version = running.server._repository.models["clf"].versions[0]
    loaded = version.loaded
    (folder / "config.pbtxt").write_text("max_batch_size: 8 version_policy { all {} }")
    running.server._repository.reconcile(settle=True)
    assert version.loaded is loaded
