"""T77 to T89: versions that replace each other under load, and versions that must not serve."""

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import StartServer
from failures import failure_of
from onnx import TensorProto, helper
from tiny_models import (
    CLASSIFIER_WEIGHTS,
    Publisher,
    TinyModel,
    classifier,
    model,
    picker,
    softmax,
)

from forwardpass.artefact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Golden,
    save_golden,
    write_manifest,
)
from forwardpass.server.loading.sandbox import Sandbox, Tried
from forwardpass.server.repository.model import Model
from forwardpass.server.repository.version import Version
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
)
from forwardpass.wire import Array, Reason, from_tensor

from .harness import (
    PATIENCE,
    assert_idle,
    connect,
    load,
    manage,
    pick,
    picked,
    predict,
    stub_of,
    summaries,
    together,
    unload,
)

IMAGES = np.random.default_rng(8).integers(0, 256, (2, 4, 4, 1), np.uint8)


def expected(version: int) -> Array:
    """What version n of the classifier answers: it was published with a bias of n / 4."""
    flat = IMAGES.reshape(-1, 16) / np.float32(255)
    return softmax(flat @ CLASSIFIER_WEIGHTS + np.array([0, 0, version / 4], np.float32))


def publish(repository: Publisher, version: int) -> None:
    """Publishes version n of the classifier as the trainer does: whole, under its name at last."""
    aside = Publisher(repository.root / ".tmp-publish")
    aside.root.mkdir(exist_ok=True)
    folder = aside("clf", classifier(bias=version / 4), version)
    (repository.root / "clf").mkdir(exist_ok=True)
    folder.rename(repository.root / "clf" / str(version))


def right_version(response: Any) -> int:
    """Returns the version that says it answered, whose answer it must be."""
    version: int = response.model.version
    answer = from_tensor(response.outputs["probabilities"])
    assert answer == pytest.approx(expected(version), abs=1e-5)
    return version


CLASSIFY = predict("clf", {"image": IMAGES})


def test_t77_versions_are_swapped_under_load_without_a_failed_call(
    repository: Publisher, start_server: StartServer
) -> None:
    publish(repository, 1)
    (repository.root / "clf" / "config.pbtxt").write_text("max_batch_size: 8 dynamic_batching {}")
    running = start_server(management_port=0)
    done = threading.Event()
    answered = [threading.Semaphore(0) for _ in range(4)]
    seen: list[list[int]] = [[] for _ in range(4)]

    def ask(index: int) -> None:
        with connect(running) as channel:
            stub = stub_of(channel)
            while not done.is_set():
                seen[index].append(right_version(stub.Predict(CLASSIFY, timeout=PATIENCE)))
                answered[index].release()

    def swap() -> None:
        try:
            with manage(running) as stub:
                for version in range(2, 22):
                    publish(repository, version)
                    load(stub, "clf", version)
                    unload(stub, "clf", version - 1)
                    # Every caller gets an answer between two swaps.
                    for one in answered:
                        while one.acquire(blocking=False):
                            pass
                        assert one.acquire(timeout=PATIENCE)
        finally:
            done.set()

    together(5, lambda index: ask(index) if index < 4 else swap())
    for versions in seen:
        assert versions == sorted(versions)
        assert len(set(versions)) >= 19
    assert right_version(running.inference.Predict(CLASSIFY)) == 21
    assert_idle(running)


def test_t77_a_version_that_is_found_and_then_replaced_is_no_failed_call(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment for a swap: after the version was chosen, before it was taken."""
    publish(repository, 1)
    running = start_server(management_port=0)
    publish(repository, 2)
    lease = Version.lease
    swapped: list[int] = []

    def swap_and_lease(version: Version) -> Any:
        if not swapped:
            swapped.append(version.number)
            with manage(running) as stub:
                load(stub, "clf", 2)
                unload(stub, "clf", 1)
        return lease(version)

    monkeypatch.setattr(Version, "lease", swap_and_lease)
    assert right_version(running.inference.Predict(CLASSIFY)) == 2
    assert swapped == [1]


def test_t77_a_watched_repository_is_swapped_under_load(
    repository: Publisher, start_server: StartServer
) -> None:
    publish(repository, 1)
    running = start_server(watch=True)
    done = threading.Event()
    versions: list[int] = []

    def ask(_: int) -> None:
        with connect(running) as channel:
            stub = stub_of(channel)
            while not done.is_set():
                versions.append(right_version(stub.Predict(CLASSIFY, timeout=PATIENCE)))

    def swap() -> None:
        changed = threading.Event()
        forget = running.server.readiness.watch(changed.set)
        try:
            for version in (2, 3):
                publish(repository, version)
                while ("clf", version) not in (seen := summaries(running)) or seen[
                    "clf", version
                ].state != MODEL_STATE_READY:
                    assert changed.wait(PATIENCE)
                    changed.clear()
        finally:
            forget()
            done.set()

    together(4, lambda index: ask(index) if index else swap())
    assert set(versions) <= {1, 2, 3}
    assert right_version(running.inference.Predict(CLASSIFY)) == 3
    assert_idle(running)


def test_t77_a_folder_that_goes_while_it_is_looked_at_is_no_failure(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository, 1)
    running = start_server(management_port=0)
    repository("gone", picker())
    publish(repository, 2)
    iterdir = Path.iterdir

    def remove_and_look(path: Path) -> Any:
        if path.name == "gone" and path.exists():
            shutil.rmtree(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", remove_and_look)
    with manage(running) as stub:
        load(stub, "clf", 2)
    assert right_version(running.inference.Predict(CLASSIFY)) == 2
    assert ("gone", 1) not in summaries(running)


class TellingLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waits = waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_t77_two_that_load_at_a_time_load_one_model(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is found by two at once is one model: what either loads, serves.

    The first to find it is held until the other has come as far as it can: to where the first is,
    if nothing stops it.
    """
    publish(repository, 1)
    running = start_server(management_port=0)
    other_came = threading.Event()
    made: list[str] = []
    monkeypatch.setattr(running.server._repository, "_scanning", TellingLock(other_came))

    def hold_and_make(folder: Path, *arguments: Any) -> Model:
        made.append(folder.name)
        if len(made) == 1:
            assert other_came.wait(PATIENCE)
        other_came.set()
        return Model(folder, *arguments)

    monkeypatch.setattr("forwardpass.server.repository.repository.Model", hold_and_make)
    repository("pick", picker())
    with manage(running) as stub:
        together(2, lambda _: load(stub, "pick", 1))
    assert made == ["pick"]
    assert picked(running.inference.Predict(pick(1))) == [1]


def test_t78_a_pinned_version_answers_until_it_is_retired(
    repository: Publisher, start_server: StartServer
) -> None:
    publish(repository, 1)
    running = start_server(management_port=0)
    pinned = predict("clf", {"image": IMAGES}, version=1)
    with manage(running) as stub:
        publish(repository, 2)
        load(stub, "clf", 2)
        assert right_version(running.inference.Predict(CLASSIFY)) == 2
        assert right_version(running.inference.Predict(pinned)) == 1
        unload(stub, "clf", 1)
    failure = failure_of(running.inference.Predict, pinned)
    assert failure.reason is Reason.MODEL_NOT_FOUND
    assert "is not served any more" in failure.message
    assert right_version(running.inference.Predict(CLASSIFY)) == 2


def cut_short(folder: Path) -> None:
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-100])
    write_manifest(folder)


def random_bytes(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(random.Random(0).randbytes(4096))
    write_manifest(folder)


def empty_file(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(b"")
    write_manifest(folder)


def golden_nan(folder: Path) -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    wrong = np.full((2, 3), np.nan, np.float32)
    save_golden(folder / GOLDEN_FILE, Golden({"image": images}, {"probabilities": wrong}))
    write_manifest(folder)


def golden_shape(folder: Path) -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    wrong = np.full((2, 4), 0.25, np.float32)
    save_golden(folder / GOLDEN_FILE, Golden({"image": images}, {"probabilities": wrong}))
    write_manifest(folder)


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


def no_model(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()


def no_golden(folder: Path) -> None:
    (folder / GOLDEN_FILE).unlink()


def extra_file(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "extra").write_bytes(b"")


def one_bit(folder: Path) -> None:
    path = folder / MODEL_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def one_bit_of_golden(folder: Path) -> None:
    path = folder / GOLDEN_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(data)


def manifest_of_the_future(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))


def manifest_no_json(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(b"{" * 100_000)


def manifest_outside(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    document = json.loads(path.read_text())
    document["files"]["../1/model.onnx"] = document["files"][MODEL_FILE]
    path.write_text(json.dumps(document))


def model_link(folder: Path) -> None:
    target = folder.parents[2] / "target.onnx"
    (folder / MODEL_FILE).rename(target)
    (folder / MODEL_FILE).symlink_to(target)


def model_hard_link(folder: Path) -> None:
    os.link(folder / MODEL_FILE, folder.parent / "other.onnx")


def model_pipe(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    os.mkfifo(folder / MODEL_FILE)


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("t79", cut_short, ""),
    ("t79", random_bytes, "is not an ONNX model"),
    ("t79", empty_file, ""),
    ("t81", golden_nan, "golden check"),
    ("t81", golden_shape, "golden"),
    ("t83", no_manifest, "has no manifest.json"),
    ("t84", no_model, "model.onnx is missing"),
    ("t84", no_golden, "golden.npz is missing"),
    ("t84", extra_file, "deep/extra is not in manifest.json"),
    ("t85", one_bit, "model.onnx has been altered"),
    ("t85", one_bit_of_golden, "golden.npz has been altered"),
    ("t85", manifest_of_the_future, "schema version 2"),
    ("t85", manifest_no_json, "manifest.json is not valid"),
    ("t85", manifest_outside, "which is not in the folder"),
    ("t87", model_link, "model.onnx is a link that leads out of the repository"),
    ("t87", model_hard_link, "has other hard links"),
    ("t87", model_pipe, "model.onnx is not a plain file"),
]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [row[1:] for row in DAMAGES],
    ids=[f"{row[0]}-{row[1].__name__}" for row in DAMAGES],
)
def test_t79_to_t87_a_bad_version_is_refused_and_the_old_one_serves(
    repository: Publisher,
    start_server: StartServer,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    publish(repository, 1)
    running = start_server(management_port=0)
    publish(repository, 2)
    damage(repository.root / "clf" / "2")
    with manage(running) as stub:
        failure = failure_of(load, stub, "clf", 2)
        assert failure.reason is Reason.MODEL_FAILED
        assert "failed to load: " in failure.message
        assert reason in failure.message
        bad = summaries(running)["clf", 2]
        assert bad.state == MODEL_STATE_FAILED
        assert bad.state_reason
        assert reason in bad.state_reason
        assert right_version(running.inference.Predict(CLASSIFY)) == 1
        # Once it is made good, it is taken.
        shutil.rmtree(repository.root / "clf" / "2")
        publish(repository, 2)
        load(stub, "clf", 2)
    assert right_version(running.inference.Predict(CLASSIFY)) == 2
    assert_idle(running)


def test_t79_the_same_bad_files_are_not_tried_again_and_again(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(repository, 1)
    publish(repository, 2)
    cut_short(repository.root / "clf" / "2")
    running = start_server()
    tries: list[int] = []
    really_load = Version.load

    def load_and_tell(version: Version, *arguments: Any) -> None:
        tries.append(version.number)
        really_load(version, *arguments)

    monkeypatch.setattr(Version, "load", load_and_tell)
    for _ in range(20):
        running.server._repository.reconcile(settle=True)
    assert tries == []
    shutil.rmtree(repository.root / "clf" / "2")
    publish(repository, 2)
    running.server._repository.reconcile(settle=True)
    assert tries == [2]
    assert right_version(running.inference.Predict(CLASSIFY)) == 2


BATCHED = "max_batch_size: 8\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            BATCHED + 'input { name: "imagee" data_type: TYPE_UINT8 dims: [4, 4, 1] }',
            "the graph has 'image'",
        ),
        (
            BATCHED + 'input { name: "image" data_type: TYPE_FP32 dims: [4, 4, 1] }',
            "the graph has uint8",
        ),
        (
            BATCHED + 'input { name: "image" data_type: TYPE_UINT8 dims: [4, 5, 1] }',
            "the graph has uint8",
        ),
        (
            BATCHED + 'output { name: "probs" data_type: TYPE_FP32 dims: [3] }',
            "the graph has 'probabil",
        ),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("max_batch_size: {", "config.pbtxt"),
    ],
)
def test_t80_a_graph_that_is_not_what_the_configuration_states_is_refused(
    repository: Publisher, start_server: StartServer, text: str, reason: str
) -> None:
    publish(repository, 1)
    running = start_server(management_port=0)
    publish(repository, 2)
    (repository.root / "clf" / "config.pbtxt").write_text(text)
    with manage(running) as stub:
        failure = failure_of(load, stub, "clf", 2)
    assert failure.reason is Reason.MODEL_FAILED
    assert reason in failure.message
    assert right_version(running.inference.Predict(CLASSIFY)) == 1


WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def outside(**data: str) -> TinyModel:
    """A product with weights that lie outside of the file, as the entries say."""
    graph = model(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        {"weights": WEIGHTS},
    )
    (tensor,) = graph.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in data.items():
        tensor.external_data.add(key=key, value=value)
    return TinyModel(graph)


def beside(folder: Path) -> None:
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())


def behind_a_link(folder: Path) -> None:
    target = folder.parent.parent / "secret"
    target.write_bytes(WEIGHTS.tobytes())
    (folder / "w.bin").symlink_to(target)


def behind_a_linked_folder(folder: Path) -> None:
    target = folder.parent.parent / "secrets"
    target.mkdir()
    (target / "w.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "d").symlink_to(target)


def with_another_name(folder: Path) -> None:
    beside(folder)
    os.link(folder / "w.bin", folder.parent.parent / "other")


def above(folder: Path) -> None:
    (folder.parent / "w.bin").write_bytes(WEIGHTS.tobytes())


EXTERNAL: list[tuple[str, Callable[[Path], None], dict[str, str], str]] = [
    ("t87-above", above, {"location": "../w.bin"}, "is no file beside the model"),
    ("t87-around", above, {"location": "d/../../w.bin"}, "is no file beside the model"),
    ("t87-absolute", beside, {"location": "/etc/passwd"}, "is no file beside the model"),
    ("t87-backslash", beside, {"location": "..\\w.bin"}, "is no file beside the model"),
    ("t87-nothing", beside, {"location": ""}, "is no file beside the model"),
    ("t87-link", behind_a_link, {"location": "w.bin"}, ""),
    ("t87-linked-folder", behind_a_linked_folder, {"location": "d/w.bin"}, ""),
    ("t87-hard-link", with_another_name, {"location": "w.bin"}, ""),
    ("t88-long", beside, {"location": "w.bin", "length": str(2**50)}, "weights end at byte"),
    ("t88-overflow", beside, {"location": "w.bin", "length": str(2**64)}, "weights end at byte"),
    ("t88-late", beside, {"location": "w.bin", "offset": "4", "length": "48"}, "weights end at"),
    ("t88-negative", beside, {"location": "w.bin", "offset": "-4"}, "negative offset or length"),
    ("t88-no-number", beside, {"location": "w.bin", "length": "x"}, "that is no number"),
    ("t88-short", beside, {"location": "w.bin", "length": "44"}, ""),
]


@pytest.mark.parametrize("manifested", [False, True], ids=["plain", "manifest"])
def test_t87_t88_weights_outside_of_the_folder_or_the_file_are_refused(
    repository: Publisher, start_server: StartServer, tmp_path: Path, manifested: bool
) -> None:
    for name, place, data, _ in EXTERNAL:
        # Each in a repository of its own, whose surroundings it cannot share.
        folder = Publisher(tmp_path / name)(name, outside(**data))
        place(folder)
        if manifested:
            write_manifest(folder)
        folder.parent.rename(repository.root / name)
    repository("pick", picker())
    running = start_server()
    seen = summaries(running)
    for name, _, _, reason in EXTERNAL:
        bad = seen[name, 1]
        assert bad.state == MODEL_STATE_FAILED, name
        assert bad.state_reason
        if not manifested:
            assert reason in bad.state_reason
        request = predict(name, {"x": np.ones((1, 4), np.float32)})
        assert failure_of(running.inference.Predict, request).reason is Reason.MODEL_FAILED
    assert picked(running.inference.Predict(pick(2))) == [2]


def test_t87_weights_beside_the_file_are_taken(
    repository: Publisher, start_server: StartServer
) -> None:
    beside(repository("lin", outside(location="w.bin", offset="0", length="48")))
    running = start_server()
    response = running.inference.Predict(predict("lin", {"x": np.eye(4, dtype=np.float32)}))
    assert (from_tensor(response.outputs["y"]) == WEIGHTS).all()


@pytest.mark.parametrize("name", [MODEL_FILE, "w.bin"])
@pytest.mark.parametrize("manifested", [False, True], ids=["plain", "manifest"])
def test_t89_a_file_that_changes_after_it_was_tried_is_not_loaded(
    repository: Publisher,
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    manifested: bool,
    name: str,
) -> None:
    folder = repository("lin", outside(location="w.bin", offset="0", length="48"))
    beside(folder)
    if manifested:
        write_manifest(folder)
    check = Sandbox.check

    def try_and_replace(sandbox: Sandbox, unparsed: Any, dims: Any) -> Tried:
        tried = check(sandbox, unparsed, dims)
        other = folder.parent / "other"
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        other.write_bytes(data)
        other.replace(folder / name)
        return tried

    monkeypatch.setattr(Sandbox, "check", try_and_replace)
    running = start_server(sandbox=True)
    bad = summaries(running)["lin", 1]
    if name == MODEL_FILE:
        # It was read before it was tried, and what was read is what is loaded.
        assert bad.state == MODEL_STATE_READY
        eye = np.eye(4, dtype=np.float32)
        response = running.inference.Predict(predict("lin", {"x": eye}))
        assert (from_tensor(response.outputs["y"]) == WEIGHTS).all()
        return
    assert bad.state == MODEL_STATE_FAILED
    altered, changed = "w.bin has been altered", "its files changed while it was being tried"
    reason = altered if manifested else changed
    assert reason in bad.state_reason
