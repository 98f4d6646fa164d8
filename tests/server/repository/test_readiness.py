"""When a server becomes ready, and who can take that away again."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from cases.harness import NOT_SERVING, PATIENCE, SERVING, check_health, get, metric, summaries
from conftest import Running, StartServer
from tiny_models import Publisher, classifier, embedder

from forwardpass.v1.model_service_pb2 import (
    MODEL_STATE_FAILED,
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub


def manager(running: Running) -> Any:
    return ModelServiceStub(grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}"))


def break_down(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"")


def readyz(running: Running) -> int:
    return get(running, "/readyz")[0]


def ready_models(running: Running) -> dict[str, float]:
    return {
        name: metric(running, "forwardpass_model_ready", model=name)
        for name in running.server._repository.models
    }


@pytest.mark.parametrize(("policy", "ready"), [("all", False), ("any", True)])
def test_t120_a_model_that_fails_at_the_start_keeps_the_server_out_where_all_must_be_ready(
    repository: Publisher, start_server: StartServer, policy: str, ready: bool
) -> None:
    repository("clf", classifier())
    break_down(repository("emb", embedder()))
    running = start_server(readiness=policy)
    assert (readyz(running) == 200) is ready
    assert (check_health(running) == SERVING) is ready
    # Each model tells for itself.
    assert (check_health(running, "clf"), check_health(running, "emb")) == (SERVING, NOT_SERVING)
    assert ready_models(running) == {"clf": 1, "emb": 0}
    # All have been tried, so nothing is to be started again.
    assert get(running, "/startedz")[0] == 200


@pytest.mark.parametrize("policy", ["all", "any"])
def test_t120_a_server_that_is_ready_stays_so_as_long_as_one_model_is(
    repository: Publisher, start_server: StartServer, policy: str
) -> None:
    repository("clf", classifier())
    repository("emb", embedder())
    running = start_server(readiness=policy, management_port=0)
    models = manager(running)
    assert readyz(running) == 200
    # A new model that is broken takes nobody else out,
    break_down(repository("new", classifier()))
    with pytest.raises(grpc.RpcError):
        models.LoadModel(LoadModelRequest(model=ModelReference(name="new")), timeout=PATIENCE)
    assert summaries(running)["new", 1].state == MODEL_STATE_FAILED
    assert readyz(running) == 200
    # nor does one that is unloaded.
    models.UnloadModel(UnloadModelRequest(model=ModelReference(name="clf")), timeout=PATIENCE)
    assert check_health(running, "clf") == NOT_SERVING
    assert readyz(running) == 200
    assert ready_models(running) == {"clf": 0, "emb": 1, "new": 0}
    # Without any it is not ready, and with one it is again.
    models.UnloadModel(UnloadModelRequest(model=ModelReference(name="emb")), timeout=PATIENCE)
    assert (readyz(running), check_health(running)) == (503, NOT_SERVING)
    models.LoadModel(LoadModelRequest(model=ModelReference(name="emb")), timeout=PATIENCE)
    assert (readyz(running), check_health(running)) == (200, SERVING)


@pytest.mark.parametrize(
    ("settings", "ready"),
    [
        ({"readiness": "all", "management_port": 0}, False),
        ({"readiness": "any"}, False),
        ({"readiness": "any", "management_port": 0}, True),
    ],
)
def test_t120_a_server_of_any_model_is_ready_without_one_where_others_may_come(
    repository: Publisher, start_server: StartServer, settings: dict[str, Any], ready: bool
) -> None:
    running = start_server(**settings)
    assert (readyz(running) == 200) is ready


def test_t120_a_model_that_failed_at_the_start_makes_the_server_ready_once_it_is_mended(
    repository: Publisher, start_server: StartServer
) -> None:
    good = repository("clf", classifier())
    broken = repository("emb", embedder())
    whole = (broken / "model.onnx").read_bytes()
    break_down(broken)
    running = start_server(management_port=0)
    assert good.is_dir()
    assert readyz(running) == 503
    (broken / "model.onnx").write_bytes(whole)
    manager(running).LoadModel(LoadModelRequest(model=ModelReference(name="emb")), timeout=PATIENCE)
    assert readyz(running) == 200
