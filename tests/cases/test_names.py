"""T61 to T67, T76: names and versions that lead elsewhere, texts that pose as log lines."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import StartServer
from failures import failure_of, read_failure
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from server.test_process import serving
from tiny_models import Publisher, classifier, picker

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import (
    GetModelRequest,
    LoadModelRequest,
    ModelReference,
    UnloadModelRequest,
)
from forwardpass.v1.model_service_pb2_grpc import ModelServiceStub
from forwardpass.wire import Reason

from .harness import PATIENCE, assert_idle, pick, picked, predict, samples, summaries, together

NAMES = [
    *("../etc", "a/../b", "pick/..", "pick/1", "..", ".", "/etc/passwd", "pick/", "pick\\..", "~"),
    *(" ..", ".. ", " \t", "pick\0", "\0", "pick\n", "PICK", "\uff50ick", "x" * 10_000),
    *("...", "pick.1", "pick..1"),
]
# What is opened while a watch is kept; an audit hook stays for good, so there is one for all.
_opened: list[str] = []
_watching = threading.Event()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching.is_set() and event in {"open", "os.listdir", "os.scandir"}:
        _opened.append(str(arguments[0]))


@contextmanager
def watch_files() -> Iterator[list[str]]:
    """Gives the paths that this process opens or lists."""
    if not _opened:
        sys.addaudithook(_audit)
        _opened.append("")
    del _opened[1:]
    _watching.set()
    try:
        yield _opened
    finally:
        _watching.clear()


def test_t61_t62_a_name_is_looked_up_and_never_a_path(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(management_port=0)
    address = f"127.0.0.1:{running.server.management_port}"
    with grpc.insecure_channel(address) as channel, watch_files() as opened:
        manage = ModelServiceStub(channel)
        for name in NAMES:
            reference = ModelReference(name=name)
            answers = [
                failure_of(running.inference.Predict, PredictRequest(model=reference)),
                failure_of(running.models.GetModel, GetModelRequest(model=reference)),
                failure_of(manage.LoadModel, LoadModelRequest(model=reference)),
                failure_of(manage.UnloadModel, UnloadModelRequest(model=reference)),
            ]
            for failure in answers:
                assert failure.reason is Reason.MODEL_NOT_FOUND, name
                assert len(failure.message.encode()) <= 256
                assert failure.message.isprintable()
        paths = [path for path in opened[1:] if not path.startswith(("/proc", "/sys", "/dev"))]
    # Only the repository itself is looked through, by the two management calls.
    assert {path for path in paths if Path(path).exists()} <= {
        str(repository.root),
        str(repository.root / "pick"),
    }
    empty = PredictRequest(model=ModelReference(name=""))
    assert failure_of(running.inference.Predict, empty).reason is Reason.INVALID_INPUT
    assert picked(running.inference.Predict(pick(1))) == [1]
    assert_idle(running)


def test_t62_names_with_dots_are_plain_names(
    repository: Publisher, start_server: StartServer
) -> None:
    for name in ("model.1", "model..1", "m-o_d.e-l"):
        repository(name, picker())
    repository("...", picker())
    running = start_server()
    assert {name for name, _ in summaries(running)} == {"model.1", "model..1", "m-o_d.e-l"}
    index = pick(2).inputs["index"]
    for name in ("model.1", "model..1", "m-o_d.e-l"):
        request = PredictRequest(model=ModelReference(name=name), inputs={"index": index})
        assert picked(running.inference.Predict(request)) == [2]


def test_t63_versions_are_numbers_from_1(repository: Publisher, start_server: StartServer) -> None:
    repository("pick", picker())
    running = start_server()
    for version in (0, -1, -(2**63)):
        failure = failure_of(running.inference.Predict, pick(1, version=version))
        assert failure.reason is Reason.INVALID_INPUT
        assert failure.field == "model.version"
    for version in (99, 2**63 - 1):
        failure = failure_of(running.inference.Predict, pick(1, version=version))
        assert failure.reason is Reason.MODEL_NOT_FOUND
    for label in ("", "1", "latest", "1/../2", "x" * 10_000):
        failure = failure_of(running.inference.Predict, pick(1, label=label))
        assert failure.reason is Reason.MODEL_NOT_FOUND
        assert len(failure.message.encode()) <= 256
    assert picked(running.inference.Predict(pick(1, version=1))) == [1]


def test_t64_entries_that_are_no_folders_of_their_own_are_ignored(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("pick", picker())
    outside = Publisher(tmp_path / "outside")("evil", picker())
    (repository.root / "link").symlink_to(outside.parent)
    (repository.root / "loop").symlink_to(repository.root)
    (repository.root / "broken").symlink_to(tmp_path / "nowhere")
    (repository.root / "pick" / "2").symlink_to(outside)
    os.mkfifo(repository.root / "pipe")
    (repository.root / "pick" / "3").write_bytes(b"")
    os.mkfifo(repository.root / "pick" / "4")
    running = start_server()
    assert summaries(running).keys() == {("pick", 1)}
    assert picked(running.inference.Predict(pick(1))) == [1]


def test_t65_load_and_unload_of_one_model_by_many(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("pick", picker())
    running = start_server(management_port=0)
    allowed = {Reason.MODEL_NOT_FOUND, Reason.MODEL_LOADING}

    def work(index: int) -> None:
        address = f"127.0.0.1:{running.server.management_port}"
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            manage: Any = ModelServiceStub(channel)
            reference = ModelReference(name="pick")
            for number in range(20):
                if (number + index) % 2:
                    manage.LoadModel(LoadModelRequest(model=reference), timeout=PATIENCE)
                else:
                    manage.UnloadModel(UnloadModelRequest(model=reference), timeout=PATIENCE)
                try:
                    assert picked(running.inference.Predict(pick(index % 4))) == [index % 4]
                except grpc.RpcError as error:
                    reason = read_failure(error).reason
                    if reason not in allowed:
                        raise

    together(8, work)
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        reference = ModelReference(name="pick")
        ModelServiceStub(channel).LoadModel(LoadModelRequest(model=reference))
    assert picked(running.inference.Predict(pick(3))) == [3]
    assert_idle(running)


def test_t66_nothing_that_is_served_sets_where_files_lie(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(reflection=True, management_port=0)
    database = ProtoReflectionDescriptorDatabase(running.channel)
    for service in database.get_services():
        file = database.FindFileContainingSymbol(service)
        for one in file.service:
            if f"{file.package}.{one.name}" != service:
                continue
            for method in one.method:
                served = f"/{service}/{method.name}"
                if any(word in method.name.lower() for word in ("trace", "log", "file", "path")):
                    call: Any = running.channel.unary_unary(served)
                    with pytest.raises(grpc.RpcError) as caught:
                        call(b"")
                    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        for message in file.message_type:
            names = {field.name for field in message.field}
            assert not names & {"path", "file", "filename", "log_file", "trace_file", "url"}


INJECTED = 'x\n{"event": "injected", "level": "critical"}'


def test_t67_a_name_that_poses_as_a_log_line_stays_inside_its_own(repository: Publisher) -> None:
    repository("pick", picker())
    (repository.root / INJECTED).mkdir()
    flags = ("--log-level", "debug", "--management-port", "0")
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = InferenceServiceStub(channel)
            request = predict(INJECTED, {})
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, metadata=(("x-request-id", '"}{"event": "injected"}'),))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert "\n" not in str(caught.value.details())
            server.wait_for("call")
        server.process.terminate()
        # Every line was JSON, or reading it would have failed.
        assert server.finish() == 0
    assert "injected" not in {line["event"] for line in server.lines}
    told = [line for line in server.lines if "injected" in json.dumps(line)]
    assert {line["event"] for line in told} == {"ignored", "call"}


def test_t76_series_do_not_grow_with_what_callers_write(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    running = start_server()
    failure_of(running.inference.Predict, predict("nope", {}))
    unknown: Any = running.channel.unary_unary("/forwardpass.v1.InferenceService/Nope")
    with pytest.raises(grpc.RpcError):
        unknown(b"")
    before = {(name, *sorted(labels.items())) for name, labels, _ in samples(running)}

    def work(index: int) -> None:
        for number in range(500):
            text = f"{index}-{number}"
            request = predict(f"no-{text}", {}, outputs=[text], label=text)
            with pytest.raises(grpc.RpcError):
                running.inference.Predict(request, metadata=(("x-request-id", text),))

    together(4, work)
    for number in range(50):
        strange: Any = running.channel.unary_unary(f"/forwardpass.v1.InferenceService/X{number}")
        with pytest.raises(grpc.RpcError):
            strange(b"")
    after = {(name, *sorted(labels.items())) for name, labels, _ in samples(running)}
    assert after == before
