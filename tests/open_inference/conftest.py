"""A server with small models, and calls of the protocol to it."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import TRANSPORTS, Running
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, classifier, echo, embedder, model, picker

from forwardpass.server.app import Server
from forwardpass.server.onnx.session import Session
from forwardpass.server.settings import Settings
from forwardpass.v1 import inference_service_pb2_grpc, model_service_pb2_grpc

from .calls import Calls


def adder() -> TinyModel:
    """Two inputs, two outputs: their sum and their difference."""
    value = helper.make_tensor_value_info
    return TinyModel(
        model(
            [
                helper.make_node("Add", ["a", "b"], ["sum"]),
                helper.make_node("Sub", ["a", "b"], ["difference"]),
            ],
            [value(name, TensorProto.FLOAT, ["n", 2]) for name in ("a", "b")],
            [value(name, TensorProto.FLOAT, ["n", 2]) for name in ("sum", "difference")],
        )
    )


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Running]:
    """One server for a module: its tests change nothing but counters."""
    repository = Publisher(tmp_path_factory.mktemp("models"))
    repository("clf", classifier())
    repository("emb", embedder())
    repository("add", adder())
    repository("text", echo(TensorProto.STRING, ["n"]))
    repository("flag", echo(TensorProto.BOOL, ["n"]))
    repository("half", echo(TensorProto.FLOAT16, ["n"]))
    repository("pick", picker())
    settings = Settings(
        models=repository.root,
        port=0,
        metrics_port=0,
        threads=1,
        sandbox=False,
        transport=request.param,
    )
    server = Server(settings)
    server.start()
    server.wait_loaded()
    with grpc.insecure_channel(
        f"127.0.0.1:{server.port}",
        [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        yield Running(
            server,
            channel,
            inference_service_pb2_grpc.InferenceServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )
    server.stop()


class Hold:
    """Holds the runs of every model between `hold` and `release.set`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy = threading.Event()
        self.release = threading.Event()
        self.release.set()
        run = Session.run

        def held(*arguments: Any, **options: Any) -> Any:
            if not self.release.is_set():
                self.busy.set()
                assert self.release.wait(30)
            return run(*arguments, **options)

        monkeypatch.setattr(Session, "run", held)

    def hold(self) -> None:
        self.release.clear()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch, no_inline_runs: None) -> Hold:
    """To be asked for before the server, which keeps what it calls."""
    return Hold(monkeypatch)


@pytest.fixture(scope="module")
def calls(running: Running) -> Calls:
    return Calls(running.channel)


A = np.array([[1, 2], [3, 4]], np.float32)
B = np.array([[10, 20], [30, 40]], np.float32)
