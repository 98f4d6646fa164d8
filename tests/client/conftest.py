"""Servers that answer as they are told, and clients that are closed for sure."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from conftest import StartServer
from onnx import TensorProto
from run_commands import Command, Ended
from tiny_models import Publisher, classifier, echo, embedder, generator, writer

from forwardpass.client import Client, cli
from forwardpass.v1 import inference_service_pb2 as pb

from .on_a_loop import OnALoop
from .scripted import Connect, ScriptedServer, StartScripted, Step


@pytest.fixture
def scripted() -> Iterator[StartScripted]:
    with ExitStack() as stack:

        def start(
            *steps: Step,
            generated: pb.GenerateResponse | None = None,
            credentials: grpc.ServerCredentials | None = None,
            port: int = 0,
        ) -> ScriptedServer:
            pool = stack.enter_context(ThreadPoolExecutor(4))
            server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
            script = ScriptedServer(list(steps), generated or pb.GenerateResponse())
            server.add_generic_rpc_handlers((script.handler(),))
            bound = (
                server.add_insecure_port(f"127.0.0.1:{port}")
                if credentials is None
                else server.add_secure_port(f"127.0.0.1:{port}", credentials)
            )
            script.target = f"127.0.0.1:{bound}"
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return script

        yield start


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Has the tests of a module with `BOTH_CLIENTS` drive `Client`, and then `AsyncClient`."""
    if "form" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_CLIENTS", False):
        metafunc.parametrize("form", [Client, OnALoop], ids=["blocking", "async"])


@pytest.fixture
def form() -> type[Client]:
    """Which of the clients a test drives."""
    return Client


@pytest.fixture
def connect(form: type[Client]) -> Iterator[Connect]:
    """Opens clients that are closed for sure."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(form(*args, **options))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, and certificates of a server and two clients that it signed, as PEM files."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for root in ("root", "stranger"):
        names = ("-keyout", f"{root}.key", "-out", f"{root}.pem", "-subj", f"/CN={root}")
        openssl("req", "-x509", *key, *names, "-days", "2")
    for name in ("server", "client", "other"):
        openssl(
            "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        signed = ("-CA", "root.pem", "-CAkey", "root.key", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


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
