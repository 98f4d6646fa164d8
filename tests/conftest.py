"""What most tests need: a repository to publish into, and servers that are stopped for sure."""

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tiny_models import Publisher

from forwardpass.server.app import Server
from forwardpass.server.loading import load as loading
from forwardpass.server.process.malloc import share_one_arena
from forwardpass.server.settings import Settings
from forwardpass.v1 import inference_service_pb2_grpc, model_service_pb2_grpc


@dataclass(frozen=True)
class Running:
    """A server in this process, and stubs that talk to it over a real connection."""

    server: Server
    channel: grpc.Channel
    inference: inference_service_pb2_grpc.InferenceServiceStub
    models: model_service_pb2_grpc.ModelServiceStub

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.server.metrics_port}"


StartServer = Callable[..., Running]


@dataclass(eq=False)
class Guest:
    """Who takes places at a server's admission, where a test takes them itself."""

    account: Hashable = "ipv4:192.0.2.1:1"
    size: int = 0


# As the program does. Of what other arenas keep, malloc_trim does not give back all that is free.
share_one_arena()

# No test takes what another one, or a server of the user's, has found out about a model.
os.environ["FORWARDPASS_CACHE_DIR"] = "off"

TRANSPORTS = ("completion_queue", "stock")

# The fixtures that train.
pytest_plugins = ["training"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-seconds",
        type=float,
        default=0,
        help="how long each fault lasts; 0 for a short form",
    )


@pytest.fixture
def repository(tmp_path: Path) -> Publisher:
    root = tmp_path / "models"
    root.mkdir()
    return Publisher(root)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of the transports: what a server does must not depend on it."""
    name: str = request.param
    return name


@pytest.fixture
def no_inline_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every model run on a thread of its own, where a run can be held up."""
    monkeypatch.setattr(loading, "inline_rows", lambda *_: 0)


@pytest.fixture
def start_server(repository: Publisher, transport: str) -> Iterator[StartServer]:
    """Starts a server on the repository, on free ports, and waits until it has loaded."""
    with ExitStack() as stack:

        def start(*, wait: bool = True, **settings: Any) -> Running:
            # Most tests trust their graphs, and are the faster for it; the sandbox has its own.
            chosen = {"port": 0, "sandbox": False, "transport": transport, **settings}
            server = Server(Settings(models=repository.root, metrics_port=0, threads=1, **chosen))
            server.start()
            stack.callback(server.stop)
            if wait:
                server.wait_loaded()
            channel = stack.enter_context(
                grpc.insecure_channel(
                    server.address,
                    [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
                )
            )
            return Running(
                server,
                channel,
                inference_service_pb2_grpc.InferenceServiceStub(channel),
                model_service_pb2_grpc.ModelServiceStub(channel),
            )

        yield start
