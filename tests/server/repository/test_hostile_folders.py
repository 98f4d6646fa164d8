"""A folder that somebody else fills: whatever is the matter with it, the others serve."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confined import OVERRIDE_MODES, SEARCH_ANYTHING, check
from conftest import StartServer
from structlog.testing import capture_logs
from tiny_models import Publisher, classifier, picker

from forwardpass.artefact import MANIFEST_FILE, MODEL_FILE
from forwardpass.server.build import open_repository
from forwardpass.server.repository.model import Model
from forwardpass.server.repository.repository import Repository
from forwardpass.server.settings import Settings
from forwardpass.v1.model_service_pb2 import MODEL_STATE_FAILED, ListModelsRequest

# Deep enough for a parser to run out of its stack, and still short.
DEEP = 30_000


@contextmanager
def opened(root: Path, **settings: object) -> Iterator[Repository]:
    chosen = {"models": root, "threads": 1, "sandbox": False, **settings}
    repository = open_repository(Settings.model_validate(chosen))
    yield repository
    repository.close()


def told(repository: Repository) -> dict[str, str]:
    """The reason of the newest version of each model; empty where it is ready."""
    for model in repository.models.values():
        assert model.ready or model.versions[0].failed
    return {name: model.versions[0].state_reason for name, model in repository.models.items()}


def deep_config(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("x { " * DEEP + "}" * DEEP)


def deep_list_in_config(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("x: " + "[" * DEEP + "]" * DEEP)


def config_cut_short(folder: Path) -> None:
    (folder / "config.pbtxt").write_bytes(b'max_batch_size: "\xff\x00{{{{')


def huge_config(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("# " + "x" * (1 << 20))


def config_pipe(folder: Path) -> None:
    os.mkfifo(folder / "config.pbtxt")


def config_outside(folder: Path) -> None:
    (folder / "config.pbtxt").symlink_to("/etc/passwd")


def with_labels(name: str) -> str:
    return (
        'output { name: "value" data_type: TYPE_FP32 dims: [] '
        f'label_filename: "{name}" }} max_batch_size: 4'
    )


def labels_of_etc(folder: Path) -> None:
    (folder / "d").symlink_to("/etc")
    (folder / "config.pbtxt").write_text(with_labels("d/passwd"))


def labels_of_the_process(folder: Path) -> None:
    (folder / "d").symlink_to("/proc/self")
    (folder / "config.pbtxt").write_text(with_labels("d/environ"))


def labels_pipe(folder: Path) -> None:
    os.mkfifo(folder / "names.txt")
    (folder / "config.pbtxt").write_text(with_labels("names.txt"))


def labels_no_text(folder: Path) -> None:
    (folder / "names.txt").write_bytes(b"\xff\xfe")
    (folder / "config.pbtxt").write_text(with_labels("names.txt"))


def huge_labels(folder: Path) -> None:
    with (folder / "names.txt").open("wb") as file:
        file.truncate(1 << 40)
    (folder / "config.pbtxt").write_text(with_labels("names.txt"))


def warmup(shape: str, kind: str) -> str:
    inputs = f'{{ key: "index" value: {{ data_type: TYPE_INT64 dims: {shape} {kind} }} }}'
    return f"model_warmup {{ name: 'w' batch_size: 1 inputs: {inputs} }}"


def huge_warmup(folder: Path) -> None:
    (folder / "config.pbtxt").write_text(warmup("[1099511627776]", "zero_data: true"))


def negative_warmup(folder: Path) -> None:
    (folder / "config.pbtxt").write_text(warmup("[-5]", "random_data: true"))


def deep_manifest(folder: Path) -> None:
    (folder / "1" / MANIFEST_FILE).write_text("[" * DEEP)


def manifest_pipe(folder: Path) -> None:
    os.mkfifo(folder / "1" / MANIFEST_FILE)


def model_of_a_device(folder: Path) -> None:
    (folder / "1" / MODEL_FILE).unlink()
    (folder / "1" / MODEL_FILE).symlink_to("/dev/zero")


def version_that_leads_to_itself(folder: Path) -> None:
    (folder / "2").symlink_to("2")


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (deep_config, "config.pbtxt: it is nested more than 32 deep"),
    (deep_list_in_config, "config.pbtxt: it is nested more than 32 deep"),
    (config_cut_short, "config.pbtxt: "),
    (huge_config, "config.pbtxt has 1048578 bytes; at most 1048576 are read"),
    (config_pipe, "config.pbtxt is not a plain file"),
    (config_outside, "config.pbtxt is a link that leads out of the repository"),
    (labels_of_etc, "passwd is a link that leads out of the repository"),
    (labels_of_the_process, "environ is a link that leads out of the repository"),
    (labels_pipe, "names.txt is not a plain file"),
    (labels_no_text, "names.txt is not UTF-8"),
    (huge_labels, "names.txt has 1099511627776 bytes"),
    (huge_warmup, "at most 268435456 bytes are made"),
    (negative_warmup, "at most 268435456 bytes are made"),
    (deep_manifest, "manifest.json is not valid: it is nested too deep"),
    (manifest_pipe, "manifest.json is not a plain file"),
    (model_of_a_device, "model.onnx is not a plain file"),
    (version_that_leads_to_itself, "Too many levels of symbolic links"),
]


@pytest.mark.parametrize(("make", "reason"), FAULTS, ids=[make.__name__ for make, _ in FAULTS])
def test_t124_a_fault_of_one_folder_is_told_of_it_alone(
    repository: Publisher, make: Callable[[Path], None], reason: str
) -> None:
    repository("pick", picker())
    folder = repository("bad", picker()).parent
    make(folder)
    with opened(repository.root) as models:
        models.reconcile(settle=False)
        for settle in (False, True, True):
            seen = told(models)
            assert seen["pick"] == ""
            assert reason in seen["bad"]
            models.reconcile(settle=settle)


def deep_labels(folder: Path) -> None:
    (folder / "labels.json").write_text("[" * DEEP)


def labels_json_pipe(folder: Path) -> None:
    os.mkfifo(folder / "labels.json")


def huge_labels_json(folder: Path) -> None:
    (folder / "labels.json").write_text(" " * (1 << 17))


def labels_json_outside(folder: Path) -> None:
    (folder / "labels.json").symlink_to("/proc/self/environ")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (deep_labels, "labels.json is nested too deep"),
        (labels_json_pipe, "labels.json is not a plain file"),
        (huge_labels_json, "labels.json has 131072 bytes; at most 65536 are read"),
        (labels_json_outside, "labels.json is a link that leads out of the repository"),
    ],
)
def test_t124_labels_that_cannot_be_read_are_ignored_and_it_says_why(
    repository: Publisher, make: Callable[[Path], None], reason: str
) -> None:
    folder = repository("pick", picker()).parent
    with capture_logs() as lines, opened(repository.root) as models:
        models.reconcile(settle=False)
        make(folder)
        models.reconcile(settle=True)
        assert models.models["pick"].ready
    assert {line["reason"] for line in lines if line["event"] == "labels_ignored"} == {reason}


def closed_folder(folder: Path) -> Path:
    return folder


def closed_version(folder: Path) -> Path:
    return folder / "1"


def closed_file(folder: Path) -> Path:
    return folder / "1" / MODEL_FILE


def closed_config(folder: Path) -> Path:
    (folder / "config.pbtxt").touch()
    return folder / "config.pbtxt"


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        (closed_folder, "cannot read its folder: Permission denied"),
        (closed_version, "Permission denied"),
        (closed_file, "cannot read model.onnx: Permission denied"),
        (closed_config, "cannot read config.pbtxt: Permission denied"),
    ],
)
def test_t124_what_belongs_to_somebody_else_is_listed_as_failed(
    repository: Publisher, closed: Callable[[Path], Path], reason: str
) -> None:
    repository("pick", picker())
    path = closed(repository("foreign", classifier()).parent)
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    try:
        bound = (OVERRIDE_MODES, SEARCH_ANYTHING)
        code, models, said = check(repository.root, "--no-sandbox", without=bound)
    finally:
        path.chmod(0o700)
    assert models["pick"]["state"] == "READY", said
    assert models["foreign"]["state"] == "FAILED"
    assert reason in models["foreign"]["reason"]
    assert code == 1
    assert "Traceback" not in said


def test_a_model_without_a_readable_folder_is_listed(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository("pick", picker())
    repository("foreign", picker())
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "foreign":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    running = start_server()
    listed = running.models.ListModels(ListModelsRequest()).models
    (foreign,) = [one for one in listed if one.model.name == "foreign"]
    assert (foreign.model.version, foreign.state) == (0, MODEL_STATE_FAILED)
    assert foreign.state_reason == "cannot read its folder: Permission denied"
    # Once it can be read, its versions take the place of that.
    monkeypatch.undo()
    running.server._repository.reconcile(settle=False)
    assert told(running.server._repository) == {"pick": "", "foreign": ""}


def test_t124_whatever_a_look_raises_ends_neither_loader_nor_watcher(
    repository: Publisher, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository("pick", picker())
    repository("odd", picker())
    reconcile = Model.reconcile
    looked, looked_again = threading.Event(), threading.Event()

    def fail(model: Model, *, settle: bool) -> bool:
        if model.name == "odd":
            (looked_again if looked.is_set() else looked).set()
            raise RecursionError("too deep")
        return reconcile(model, settle=settle)

    monkeypatch.setattr(Model, "reconcile", fail)
    running = start_server(watch=True)
    assert running.server._repository.models["pick"].ready
    assert looked_again.wait(60)
    assert running.server._watcher is not None
    assert running.server._watcher._thread.is_alive()


def test_t125_links_between_folders_are_followed_inside_the_repository_alone(
    repository: Publisher, tmp_path: Path
) -> None:
    """As Kubernetes mounts a volume, and as the Hugging Face cache lays out a model."""
    aside = Publisher(repository.root / "..2026_01")
    aside("mounted", classifier())
    (repository.root / "..data").symlink_to("..2026_01")
    (repository.root / "mounted").symlink_to("..data/mounted")
    folder = Publisher(tmp_path / "cache")("hub", classifier())
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    (repository.root / "hub").mkdir()
    (repository.root / "hub" / "1").symlink_to(folder)
    (repository.root / "linked").symlink_to(folder.parent)
    with opened(repository.root) as models:
        models.reconcile(settle=False)
        reasons = told(models)
        assert reasons.keys() == {"mounted", "hub"}
        assert reasons["mounted"] == ""
        assert reasons["hub"].startswith("version 1: it is a link out of the repository")
    with opened(repository.root, follow_links=[tmp_path / "cache"]) as models:
        models.reconcile(settle=False)
        assert told(models) == {"mounted": "", "hub": "", "linked": ""}


def test_the_flag_names_folders_by_commas(repository: Publisher, tmp_path: Path) -> None:
    folder = Publisher(tmp_path / "cache")("clf", classifier())
    (repository.root / "clf").symlink_to(folder.parent)
    repository("pick", picker())
    flags = ("--follow-links", f"{tmp_path / 'nowhere'},{tmp_path / 'cache'}")
    _, models, said = check(repository.root, *flags)
    assert {line["state"] for line in models.values()} == {"READY"}, said
    assert json.dumps(sorted(models)) == '["clf", "pick"]'
    assert "is not an absolute path" in check(repository.root, "--follow-links", "cache")[2]
