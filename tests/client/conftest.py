"""Servers that answer as they are told, and clients that are closed for sure."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from conftest import StartServer
from onnx import TensorProto
from run_commands import Command, Ended
from tiny_models import Publisher, classifier, echo, embedder, generator, writer

from forwardpass.client import Client, cli
from forwardpass.v1 import inference_service_pb2 as pb

from .scripted import Connect, ScriptedServer, StartScripted, Step


@pytest.fixture
def scripted() -> Iterator[StartScripted]:
    with ExitStack() as stack:

        def start(
            *steps: Step,
            generated: pb.GenerateResponse | None = None,
            credentials: grpc.ServerCredentials | None = None,
        ) -> ScriptedServer:
            pool = stack.enter_context(ThreadPoolExecutor(4))
            server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
            script = ScriptedServer(list(steps), generated or pb.GenerateResponse())
            server.add_generic_rpc_handlers((script.handler(),))
            port = (
                server.add_insecure_port("127.0.0.1:0")
                if credentials is None
                else server.add_secure_port("127.0.0.1:0", credentials)
            )
            script.target = f"127.0.0.1:{port}"
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return script

        yield start


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens clients that are closed for sure."""
    with ExitStack() as stack:
        yield lambda target, **options: stack.enter_context(Client(target, **options))


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""
    # Wide enough that no table folds the path of a file.
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["forwardpass", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def client(repository: Publisher, start_server: StartServer, connect: Connect) -> Client:
    """Calls a server of models that are small enough to work out."""
    repository("shapes", classifier())
    repository("features", embedder())
    repository("gan", generator())
    repository("poet", writer())
    repository("floats", echo(TensorProto.FLOAT, ["n"]))
    repository("strings", echo(TensorProto.STRING, ["n", 2]))
    repository("bytes", echo(TensorProto.UINT8, ["n"]))
    return connect(start_server().address)
