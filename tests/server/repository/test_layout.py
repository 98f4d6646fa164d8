"""What is no model or no version says why, in the log, in `check`, and to callers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from conftest import StartServer
from failures import failure_of
from onnx import TensorProto
from structlog.testing import capture_logs
from tiny_models import Publisher, echo

from forwardpass.server.build import open_repository
from forwardpass.server.check import check
from forwardpass.server.settings import Settings
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ListModelsRequest, ModelReference
from forwardpass.wire import Reason, to_tensor

TINY = echo(TensorProto.FLOAT, ["n", 3])
CALL = PredictRequest(
    model=ModelReference(name="real"), inputs={"x": to_tensor(np.ones((1, 3), np.float32))}
)


def beside(repository: Publisher) -> Publisher:
    """Publishes in a folder that is not the repository's."""
    return Publisher(repository.root.parent / "elsewhere")


def a_name_with_a_space(repository: Publisher) -> None:
    repository("a b", TINY)


def a_name_with_a_plus(repository: Publisher) -> None:
    repository("a+b", TINY)


def a_link_out_of_it(repository: Publisher) -> None:
    (repository.root / "real").symlink_to(beside(repository)("real", TINY).parent)


def a_link_to_nothing(repository: Publisher) -> None:
    (repository.root / "real").symlink_to("nothing")


def version_zero(repository: Publisher) -> None:
    folder = repository("real", TINY)
    folder.rename(folder.parent / "0")


def leading_zeros(repository: Publisher) -> None:
    folder = repository("real", TINY)
    folder.rename(folder.parent / "00000123")


def no_version_folder(repository: Publisher) -> None:
    folder = repository("real", TINY)
    shutil.move(folder / "model.onnx", folder.parent)
    folder.rmdir()


def a_file(repository: Publisher) -> None:
    (repository.root / "notes.txt").touch()


def check_lines(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Returns the exit code of `check`, and the reasons that it prints."""
    opened = open_repository(Settings(models=root, threads=1, sandbox=False, cache_dir="off"))
    code = check(opened)
    opened.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    return code, [line["reason"] for line in lines if "reason" in line and "event" not in line]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (a_name_with_a_space, "a model's name has letters, digits"),
        (a_name_with_a_plus, "a model's name has letters, digits"),
        (a_link_out_of_it, "to have such links followed name the folder where it leads"),
        (a_link_to_nothing, "it is a link that leads to no folder"),
        (version_zero, "without leading zeros, and it has '0'"),
        (leading_zeros, "without leading zeros, and it has '00000123'"),
        (no_version_folder, "model.onnx lies in it directly; move it into a folder of its version"),
        (a_file, "it is no folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_model_says_why(
    repository: Publisher,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Publisher], None],
    why: str,
) -> None:
    spoil(repository)
    with capture_logs() as logged:
        code, reasons = check_lines(repository.root, capsys)
    assert code == 1
    (reason,) = reasons
    assert why in reason
    assert [line["reason"] for line in logged if line["event"] == "ignored"] == [reason]


def test_who_serves_one_model_is_told_of_the_folder_above(
    repository: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = repository("real", TINY)
    for served in (folder.parent, folder):
        code, (reason,) = check_lines(served, capsys)
        assert code == 1
        assert reason.endswith(f": serve {repository.root}")


def test_a_link_that_is_followed_is_a_model(
    repository: Publisher, start_server: StartServer
) -> None:
    a_link_out_of_it(repository)
    running = start_server(follow_links=[repository.root.parent / "elsewhere"])
    assert running.inference.Predict(CALL).model.version == 1


def test_a_version_that_is_a_link_out_of_the_repository_says_so(
    repository: Publisher, start_server: StartServer
) -> None:
    target = beside(repository)("real", TINY)
    (repository.root / "real").mkdir()
    (repository.root / "real" / "1").symlink_to(target)
    failure = failure_of(start_server().inference.Predict, CALL)
    assert failure.reason is Reason.MODEL_FAILED
    assert "version 1: it is a link out of the repository" in failure.message


def test_a_version_that_nobody_asked_for_is_not_loading_for_ever(
    repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("real", TINY).parent
    (folder / "config.pbtxt").write_text("version_policy { specific { versions: [2, 3] } }")
    running = start_server(management_port=0)
    with pytest.raises(grpc.RpcError) as caught:
        running.inference.Predict(CALL)
    # Which no client sends again.
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    reason = "version_policy in config.pbtxt asks for 2, 3, and there are 1"
    assert reason in str(caught.value.details())
    (summary,) = running.models.ListModels(ListModelsRequest()).models
    assert summary.state_reason == reason
    repository("real", TINY, 2)
    running.server._repository.reconcile(settle=False)
    assert running.inference.Predict(CALL).model.version == 2
