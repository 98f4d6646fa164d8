"""Versions come and go while the server serves: policies, labels, loading on request, watching."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of, read_failure
from onnx import TensorProto
from structlog.testing import capture_logs
from tiny_models import Publisher, classifier, echo

from forwardpass.artefact import MANIFEST_FILE
from forwardpass.server.app import Server
from forwardpass.server.process import watched_files
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_READY,
    MODEL_STATE_UNLOADED,
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason, to_tensor

IMAGE = to_tensor(np.zeros((1, 4, 4, 1), np.uint8))


def predict(running: Running, **selector: Any) -> int:
    """The version that answers."""
    reference = ModelReference(name="clf", **selector)
    request = PredictRequest(model=reference, inputs={"image": IMAGE})
    return running.inference.Predict(request).model.version


def states(running: Running, name: str = "clf") -> dict[int, int]:
    models = running.models.ListModels(ListModelsRequest()).models
    return {one.model.version: one.state for one in models if one.model.name == name}


@contextmanager
def changes(running: Running) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Gives a way to wait until something has come true, looked at after every change."""
    changed = threading.Event()
    forget = running.server.readiness.watch(changed.set)

    def wait_until(condition: Callable[[], bool]) -> None:
        while not condition():
            assert changed.wait(60), "nothing changed for a minute"
            changed.clear()

    try:
        yield wait_until
    finally:
        forget()


@pytest.mark.parametrize(
    ("policy", "serving"),
    [
        ("latest: { num_versions: 2 }", [3, 4]),
        ("latest: {}", [4]),
        ("all: {}", [1, 2, 3, 4]),
        ("specific: { versions: [1, 3] }", [1, 3]),
    ],
)
def test_the_policy_decides_which_versions_serve(
    repository: Publisher, start_server: StartServer, policy: str, serving: list[int]
) -> None:
    for version in (1, 2, 3, 4):
        repository("clf", classifier(), version)
    (repository.root / "clf" / "config.pbtxt").write_text(f"version_policy: {{ {policy} }}")
    running = start_server()
    ready = [n for n, state in sorted(states(running).items()) if state == MODEL_STATE_READY]
    assert ready == serving
    assert predict(running) == serving[-1]
    assert predict(running, version=serving[0]) == serving[0]


def test_a_label_points_to_a_version_that_is_loaded_for_it(
    repository: Publisher, start_server: StartServer
) -> None:
    for version in (1, 2, 3):
        repository("clf", classifier(), version)
    labels = repository.root / "clf" / "labels.json"
    labels.write_text('{"stable": 1, "gone": 9}')
    running = start_server()
    assert predict(running) == 3
    assert predict(running, label="stable") == 1
    summary = running.models.ListModels(ListModelsRequest()).models[-1]
    assert list(summary.version_labels) == ["stable"]
    request = GetModelRequest(model=ModelReference(name="clf", label="gone"))
    assert failure_of(running.models.GetModel, request).reason is Reason.MODEL_NOT_FOUND
    request = GetModelRequest(model=ModelReference(name="clf", label="stabel"))
    assert "did you mean 'stable'?" in failure_of(running.models.GetModel, request).message


def test_labels_that_are_none_are_ignored(repository: Publisher, start_server: StartServer) -> None:
    repository("clf", classifier())
    (repository.root / "clf" / "labels.json").write_text('["stable"]')
    assert predict(start_server()) == 1


def test_a_version_comes_and_goes_on_request(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier(), 1)
    running = start_server(management_port=0)
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        manage = ModelServiceStub(channel)
        repository("clf", classifier(bias=1), 2)
        assert predict(running) == 1
        second = ModelReference(name="clf", version=2)
        loaded = manage.LoadModel(LoadModelRequest(model=second)).model
        assert loaded.summary.model.version == 2
        assert loaded.golden.passed
        assert predict(running) == 2
        # A whole model that was not there at the start.
        repository("new", classifier(), 1)
        manage.LoadModel(LoadModelRequest(model=ModelReference(name="new")))
        assert states(running, "new") == {1: MODEL_STATE_READY}

        gone = manage.UnloadModel(UnloadModelRequest(model=second)).models
        assert [(one.model.version, one.state) for one in gone] == [(2, MODEL_STATE_UNLOADED)]
        assert predict(running) == 1
        # Without a version the policy rules: the newest serves, and it alone.
        manage.LoadModel(LoadModelRequest(model=ModelReference(name="clf")))
        assert states(running) == {2: MODEL_STATE_READY, 1: MODEL_STATE_UNLOADED}
        manage.UnloadModel(UnloadModelRequest(model=ModelReference(name="clf")))
        request = PredictRequest(model=ModelReference(name="clf"), inputs={"image": IMAGE})
        assert failure_of(running.inference.Predict, request).reason is Reason.MODEL_NOT_FOUND

        (repository("clf", classifier(), 3) / MANIFEST_FILE).unlink()
        bad = LoadModelRequest(model=ModelReference(name="clf", version=3))
        failure = failure_of(manage.LoadModel, bad)
        assert failure.reason is Reason.MODEL_FAILED
        assert "has no manifest.json" in failure.message
        for name, number in (("nope", 0), ("clf", 7)):
            reference = ModelReference(name=name)
            if number:
                reference.version = number
            failure = failure_of(manage.LoadModel, LoadModelRequest(model=reference))
            assert failure.reason is Reason.MODEL_NOT_FOUND
        # What asks for work is not answered on this port, nor management on the other.
        with pytest.raises(grpc.RpcError) as caught:
            manage.ListModels(ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        running.models.LoadModel(LoadModelRequest(model=ModelReference(name="clf")))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_management_takes_the_token_where_there_is_one(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server(management_port=0, management_token="s3cret")
    request = LoadModelRequest(model=ModelReference(name="clf"))
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        load = ModelServiceStub(channel).LoadModel
        for metadata in ((), (("authorization", "Bearer s3cre"),), (("authorization", "s3cret"),)):
            failure = failure_of(load, request, metadata=metadata)
            assert failure.reason is Reason.UNAUTHENTICATED
            assert "s3cret" not in failure.message
        assert load(request, metadata=(("authorization", "Bearer s3cret"),)).model.digest


@pytest.mark.parametrize("is_shared", [False, True])
def test_t133_callers_change_from_one_token_of_the_file_to_the_other(
    repository: Publisher,
    start_server: StartServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_shared: bool,
) -> None:
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)
    repository("clf", classifier())
    tokens = tmp_path / "tokens"
    tokens.write_text("old-token\n")
    ports: dict[str, Any] = {"management_port": 0}
    if is_shared:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ports = {"host": "0.0.0.0", "port": port, "management_port": port}
    running = start_server(**ports, management_token_file=tokens)
    request = LoadModelRequest(model=ModelReference(name="clf"))
    with (
        capture_logs() as lines,
        grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel,
    ):
        load = ModelServiceStub(channel).LoadModel

        def taken() -> list[str]:
            """Returns the tokens that are taken, of all that have been or will be."""
            found = []
            for token in ("old-token", "new-token", "old-toke", "new-tokens"):
                metadata = (("authorization", f"Bearer {token}"),)
                try:
                    load(request, metadata=metadata, timeout=60)
                except grpc.RpcError as error:
                    assert read_failure(error).reason is Reason.UNAUTHENTICATED  # noqa: PT017  # of any
                else:
                    found.append(token)
            assert failure_of(load, request).reason is Reason.UNAUTHENTICATED
            return found

        assert taken() == ["old-token"]
        tokens.write_text("old-token\nnew-token\n")
        assert taken() == ["old-token", "new-token"]
        tokens.write_text("new-token\n")
        assert taken() == ["new-token"]
        # As a Secret that has been deleted leaves it.
        tokens.unlink()
        assert taken() == ["new-token"]
    assert [line["event"] for line in lines].count("management_tokens_kept") == 1
    assert "-token" not in str(lines)


def test_management_that_others_can_reach_takes_a_token(
    repository: Publisher, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "models": repository.root,
        "host": "0.0.0.0",
        "port": 1,
        "management_port": 1,
    }
    with pytest.raises(SettingsError, match="take a management_token, a management_token_file"):
        Server(Settings(**settings))
    Server(Settings(**settings, management_token="x"))
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-file")
    Server(Settings(**settings, management_token_file=tokens))


@pytest.mark.parametrize("token", ["", " \n"])
@pytest.mark.parametrize(
    "where",
    [
        {"management_port": 0},
        {"port": 1, "management_port": 1},
        {"host": "0.0.0.0", "port": 1, "management_port": 1},
    ],
)
def test_t133_an_empty_token_opens_no_port(
    repository: Publisher, where: dict[str, Any], token: str
) -> None:
    """It is what a secret that is not set comes to be."""
    settings = Settings(models=repository.root, **where, management_token=token)
    with pytest.raises(SettingsError, match=r"'management_token' is empty, .*: give a token, or"):
        Server(settings)


def test_t133_a_file_without_tokens_opens_no_port(repository: Publisher, tmp_path: Path) -> None:
    settings = Settings(
        models=repository.root, management_port=0, management_token_file=tmp_path / "tokens"
    )
    reason = f"setting 'management_token_file': cannot read {tmp_path}/tokens: No such file"
    with pytest.raises(SettingsError, match=reason):
        Server(settings)
    (tmp_path / "tokens").touch()
    with pytest.raises(SettingsError, match=f"{tmp_path}/tokens is empty"):
        Server(settings)


def test_an_empty_token_does_no_harm_where_nothing_is_managed(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server(management_token="")
    with pytest.raises(grpc.RpcError) as caught:
        running.models.LoadModel(LoadModelRequest(model=ModelReference(name="clf")))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_watched_repository_is_followed(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("clf", classifier(), 1)
    running = start_server(watch=True)
    with changes(running) as wait_until:
        repository("clf", classifier(bias=1), 2)
        wait_until(lambda: predict(running) == 2)
        wait_until(lambda: states(running)[1] == MODEL_STATE_UNLOADED)
        # A plain ONNX file in a new folder is taken up once it stands still.
        repository("plain", echo(TensorProto.FLOAT, ["n"]))
        wait_until(lambda: states(running, "plain") == {1: MODEL_STATE_READY})
        # The newest version goes: the one before comes back.
        shutil.rmtree(repository.root / "clf" / "2")
        wait_until(lambda: predict(running) == 1)


def test_a_copy_in_a_watched_repository_is_never_served_half(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("clf", classifier(), 1)
    running = start_server(watch=True)
    whole = Publisher(tmp_path / "elsewhere")("clf", classifier(bias=1), 2)
    half = repository.root / "clf" / "2"
    half.mkdir()
    with changes(running) as wait_until:
        names = sorted(path.name for path in whole.iterdir())
        assert names[-1] == "model.onnx"
        for name in names[:-1]:
            shutil.copy(whole / name, half / name)
        data = (whole / "model.onnx").read_bytes()
        (half / "model.onnx").write_bytes(data[: len(data) // 2])
        wait_until(lambda: states(running).get(2) == MODEL_STATE_FAILED)
        assert predict(running) == 1
        (half / "model.onnx").write_bytes(data)
        wait_until(lambda: predict(running) == 2)


def check(root: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the lines of `forwardpass-serve check`."""
    code = "from forwardpass.server.cli import main; main()"
    command = [sys.executable, "-c", code, "check", str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def test_what_check_says_is_what_would_serve(repository: Publisher) -> None:
    repository("clf", classifier(), 1)
    code, (facts,) = check(repository.root)
    assert code == 0
    assert (facts["model"], facts["version"], facts["state"]) == ("clf", 1, "READY")
    assert facts["golden"]["rows"] == 5
    assert facts["inputs"] == [{"name": "image", "type": "uint8", "shape": [-1, 4, 4, 1]}]
    assert facts["curve"][0]["rows"] == 1

    (repository("clf", classifier(), 2) / MANIFEST_FILE).unlink()
    code, lines = check(repository.root)
    assert code == 1
    assert [line["state"] for line in lines] == ["FAILED", "READY"]
    assert "has no manifest.json" in lines[0]["reason"]
