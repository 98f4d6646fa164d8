"""Calls that carry tokens: who may make which, on both transports, and while tokens change."""

import hashlib
import hmac
import socket
import threading
from pathlib import Path
from queue import SimpleQueue
from tempfile import mkdtemp
from typing import Any, Self, TypeAlias
from urllib.request import urlopen

import grpc
import pytest
from certificates import Authority
from conftest import Running, StartServer
from failures import read_failure
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tiny_models import Publisher

from forwardpass.server.app import Server
from forwardpass.server.build import build_admission, open_repository
from forwardpass.server.process import watched_files
from forwardpass.server.repository.readiness import Policy, Readiness
from forwardpass.server.routes import Services, methods
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.tokens import Permission
from forwardpass.server.settings import Settings, SettingsError

Metadata: TypeAlias = tuple[tuple[str, str], ...]

PATIENCE = 60
NATIVE = "/forwardpass.v1.InferenceService"
MODELS = "/forwardpass.v1.ModelService"
OPEN_INFERENCE = "/inference.GRPCInferenceService"
UNKNOWN = f"{NATIVE}/Nothing"
UNAUTHENTICATED, DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"
# What each method needs; `health` stands for those that are open unless a setting closes them.
NEEDED: dict[str, str] = {
    f"{NATIVE}/Predict": "infer",
    f"{NATIVE}/PredictStream": "infer",
    f"{NATIVE}/Embed": "embed",
    f"{NATIVE}/EmbedStream": "embed",
    f"{NATIVE}/Generate": "generate",
    f"{NATIVE}/GenerateStream": "generate",
    f"{MODELS}/ListModels": "read",
    f"{MODELS}/GetModel": "read",
    f"{MODELS}/LoadModel": "manage",
    f"{MODELS}/UnloadModel": "manage",
    "/grpc.health.v1.Health/Check": "health",
    "/grpc.health.v1.Health/Watch": "health",
    f"{OPEN_INFERENCE}/ModelInfer": "infer",
    f"{OPEN_INFERENCE}/ModelStreamInfer": "infer",
    f"{OPEN_INFERENCE}/ServerLive": "health",
    f"{OPEN_INFERENCE}/ServerReady": "health",
    f"{OPEN_INFERENCE}/ServerMetadata": "read",
    f"{OPEN_INFERENCE}/ModelReady": "read",
    f"{OPEN_INFERENCE}/ModelMetadata": "read",
    f"{OPEN_INFERENCE}/ModelConfig": "read",
    f"{OPEN_INFERENCE}/ModelStatistics": "read",
    f"{OPEN_INFERENCE}/RepositoryIndex": "read",
    f"{OPEN_INFERENCE}/RepositoryModelLoad": "manage",
    f"{OPEN_INFERENCE}/RepositoryModelUnload": "manage",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "read",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "read",
}
TOKENS = {permission.value: f"s3cret-{permission}" for permission in Permission}


def entry(name: str, token: str, *permissions: str, is_hashed: bool = False) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    secret = f'sha256 = "{digest}"' if is_hashed else f'token = "{token}"'
    return f'[[tokens]]\nname = "{name}"\n{secret}\npermissions = {list(permissions)}\n'


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    """A token for each permission, the others hashed, and one that permits everything."""
    path = tmp_path / "tokens.toml"
    entries = [
        entry(name, token, name, is_hashed=index % 2 == 0)
        for index, (name, token) in enumerate(TOKENS.items())
    ]
    path.write_text("".join([*entries, entry("all", "s3cret-all", *TOKENS)]))
    return path


@pytest.fixture
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)


def served(root: Path) -> set[str]:
    """Returns the paths of the server's own table, with all that settings add to it."""
    settings = Settings(models=root, sandbox=False)
    repository, admission = open_repository(settings), build_admission(settings)
    readiness = Readiness(repository, (), Policy.ALL, may_be_empty=True)
    reader = InputReader(admission, False, 1)
    table = methods(
        Services(
            repository,
            readiness,
            reader,
            admission,
            max_message_bytes=1 << 20,
            reflects=True,
            manages=True,
            health=None,
        )
    )
    return set(table)


def carrying(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def outcome(channel: grpc.Channel, path: str, metadata: Metadata) -> str:
    """Returns how a call is answered first, as a stream, which is every method on the wire."""
    method: Any = channel.stream_stream(path)
    call = method(iter([b""]), metadata=metadata, timeout=PATIENCE)
    try:
        next(call, None)
    except grpc.RpcError as error:
        failure = read_failure(error)
        assert "s3cret" not in failure.message
        return failure.reason
    finally:
        call.cancel()
    return "OK"


def shared_port() -> dict[str, Any]:
    """Returns the settings of a server that answers management calls where it answers all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {"port": port, "management_port": port}


def expected(path: str, kind: str, health: str | None) -> set[str]:
    """Returns the refusal that a call must meet; those that are let in may fail otherwise."""
    needed = NEEDED.get(path)
    if needed == "health":
        needed = health
        if needed is None:
            return set()
    if kind in {"none", "wrong", "cut off", "bare", "empty"}:
        return {UNAUTHENTICATED}
    return {DENIED} if needed not in {None, kind} and kind != "all" else set()


HEADERS: dict[str, Metadata] = {
    "none": (),
    "wrong": carrying("s3cret-other"),
    "cut off": carrying(TOKENS["infer"][:-1]),
    "bare": (("authorization", TOKENS["infer"]),),
    "empty": carrying(""),
    "all": carrying("s3cret-all"),
    **{name: carrying(token) for name, token in TOKENS.items()},
}


@pytest.mark.parametrize("health", [None, "read"])
@pytest.mark.parametrize("kind", HEADERS)
def test_t69_t73_a_call_is_let_in_whose_token_permits_it(
    repository: Publisher,
    start_server: StartServer,
    tokens_file: Path,
    kind: str,
    health: str | None,
) -> None:
    assert served(repository.root) == set(NEEDED)
    with capture_logs() as lines:
        running = start_server(
            **shared_port(),
            tokens_file=tokens_file,
            reflection=True,
            health_needs_token=health is not None,
        )
        for path in (*NEEDED, UNKNOWN):
            found = outcome(running.channel, path, HEADERS[kind])
            refusal = expected(path, kind, health)
            assert {found} & {UNAUTHENTICATED, DENIED} == refusal, path
            if path == UNKNOWN and not refusal:
                assert found == "UNIMPLEMENTED"
    assert "s3cret" not in str(lines)


def test_t72_management_calls_take_a_token_on_their_own_port_too(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(management_port=0, tokens_file=tokens_file)
    path = f"{MODELS}/LoadModel"
    assert outcome(running.channel, path, HEADERS["manage"]) == "UNIMPLEMENTED"
    assert outcome(running.channel, path, HEADERS["none"]) == UNAUTHENTICATED
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        assert outcome(channel, path, HEADERS["none"]) == UNAUTHENTICATED
        assert outcome(channel, path, HEADERS["read"]) == DENIED
        assert outcome(channel, path, HEADERS["manage"]) == "INVALID_INPUT"
        assert outcome(channel, f"{MODELS}/ListModels", HEADERS["none"]) == UNAUTHENTICATED
        assert outcome(channel, f"{MODELS}/ListModels", HEADERS["read"]) == "UNIMPLEMENTED"


def test_without_tokens_every_method_is_open(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(**shared_port(), reflection=True)
    found = {path: outcome(running.channel, path, ()) for path in (*NEEDED, UNKNOWN)}
    assert not set(found.values()) & {UNAUTHENTICATED, DENIED}
    assert found[UNKNOWN] == "UNIMPLEMENTED"


def test_a_management_token_leaves_everything_else_open(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server(**shared_port(), management_token="s3cret", reflection=True)
    found = {path: outcome(running.channel, path, ()) for path in (*NEEDED, UNKNOWN)}
    refused = {path for path, reason in found.items() if reason == UNAUTHENTICATED}
    assert refused == {path for path, needed in NEEDED.items() if needed == "manage"}


def test_a_call_that_is_refused_takes_no_place(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    """Callers without a token cannot keep the others out."""
    running = start_server(tokens_file=tokens_file, health_needs_token=True, max_watches=1)
    watch = "/grpc.health.v1.Health/Watch"
    method: Any = running.channel.unary_stream(watch)
    held = method(b"", metadata=HEADERS["read"], timeout=PATIENCE)
    next(held)
    assert outcome(running.channel, watch, HEADERS["none"]) == UNAUTHENTICATED
    assert outcome(running.channel, watch, HEADERS["infer"]) == DENIED
    assert outcome(running.channel, watch, HEADERS["read"]) == "QUEUE_FULL"
    held.cancel()


def samples(running: Running, name: str) -> dict[str, float]:
    """Returns the values of a metric, by the label `reason`."""
    with urlopen(f"{running.metrics_url}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    assert "s3cret" not in text
    return {
        sample.labels.get("reason", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.usefixtures("always_looks")
def test_refusals_and_a_broken_file_are_counted(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(tokens_file=tokens_file)
    denied = "forwardpass_access_denied_total"
    assert samples(running, denied) == {"missing": 0, "unknown": 0, "permission": 0}
    path = f"{MODELS}/ListModels"
    for kind in ("none", "bare", "wrong", "infer", "embed", "manage", "read"):
        outcome(running.channel, path, HEADERS[kind])
    outcome(running.channel, UNKNOWN, HEADERS["wrong"])
    assert samples(running, denied) == {"missing": 2, "unknown": 2, "permission": 3}
    assert samples(running, "forwardpass_tokens_failing") == {"": 0}
    whole = tokens_file.read_text()
    with capture_logs() as lines:
        tokens_file.write_text(whole[:-2])
        # Nobody calls: the scrape looks.
        assert samples(running, "forwardpass_tokens_failing") == {"": 1}
        assert outcome(running.channel, path, HEADERS["read"]) == "OK"
        tokens_file.write_text(whole)
        assert samples(running, "forwardpass_tokens_failing") == {"": 0}
    assert [line["event"] for line in lines if line["event"] != "call"] == ["tokens_kept", "tokens"]


def test_without_tokens_there_is_no_metric_of_them(
    repository: Publisher, start_server: StartServer
) -> None:
    running = start_server()
    assert samples(running, "forwardpass_tokens_failing") == {}
    assert samples(running, "forwardpass_access_denied_total") == {}


class Callers:
    """Threads that list the models, one call after the other, until the block is left.

    Args:
        channel: Where they call.
        token: What they carry at first.
    """

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self.token = token
        self.failures: list[str] = []
        self._call: Any = channel.unary_unary(f"{MODELS}/ListModels")
        self._is_over = False
        self._rounds = [threading.Semaphore(0) for _ in range(4)]
        self._threads = [
            threading.Thread(target=self._go_on, args=(done,)) for done in self._rounds
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait(self, calls: int = 20) -> None:
        """Returns once each of them has made that many more."""
        for done in self._rounds:
            while done.acquire(blocking=False):
                pass
            for _ in range(calls + 1):
                assert done.acquire(timeout=PATIENCE)

    def _go_on(self, done: threading.Semaphore) -> None:
        while not self._is_over:
            try:
                self._call(b"", metadata=carrying(self.token), timeout=PATIENCE)
            except grpc.RpcError as error:
                self.failures.append(str(error.details()))
            done.release()


@pytest.mark.usefixtures("always_looks")
def test_t70_tokens_are_rotated_while_calls_go_on(
    repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    """As the kubelet changes a Secret: a file is a link by ..data, which is replaced at once."""
    path = tmp_path / "tokens.toml"
    path.symlink_to("..data/tokens.toml")

    def mount(*entries: str) -> None:
        home = Path(mkdtemp(prefix="..", dir=tmp_path))
        (home / "tokens.toml").write_text("".join(entries))
        (tmp_path / "..data_tmp").symlink_to(home.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    def wait_for(token: str, reason: str) -> None:
        """Another call may be looking at the file just now, for which this one does not wait."""
        for _ in range(1_000):
            if outcome(running.channel, f"{MODELS}/ListModels", carrying(token)) == reason:
                return
        raise AssertionError(f"{token} is not answered with {reason}")

    old = entry("jobs", "s3cret-old", "read")
    new = entry("jobs", "s3cret-new", "read", is_hashed=True)
    mount(old)
    running = start_server(tokens_file=path)
    with Callers(running.channel, "s3cret-old") as callers:
        callers.wait()
        wait_for("s3cret-new", UNAUTHENTICATED)
        mount(old, new)
        wait_for("s3cret-new", "OK")
        callers.wait()
        callers.token = "s3cret-new"
        callers.wait()
        mount(new)
        wait_for("s3cret-old", UNAUTHENTICATED)
        callers.wait()
    assert callers.failures == []


@pytest.mark.usefixtures("always_looks")
def test_a_stream_goes_on_whose_token_is_taken_back(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(tokens_file=tokens_file, reflection=True)
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    questions: SimpleQueue[bytes | None] = SimpleQueue()
    method: Any = running.channel.stream_stream(path)
    answers = method(iter(questions.get, None), metadata=HEADERS["read"], timeout=PATIENCE)
    questions.put(b"")
    next(answers)
    tokens_file.write_text(entry("other", "s3cret-new", "read"))
    assert outcome(running.channel, path, HEADERS["read"]) == UNAUTHENTICATED
    questions.put(b"")
    next(answers)
    questions.put(None)
    assert list(answers) == []


@pytest.mark.parametrize("kind", ["infer", "all", "wrong"])
def test_t70_a_token_is_compared_with_every_one(
    repository: Publisher,
    start_server: StartServer,
    tokens_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Whichever it is, if any: that takes as long, and lets nobody find it out bit by bit."""
    running = start_server(tokens_file=tokens_file)
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", record)
    outcome(running.channel, f"{MODELS}/ListModels", HEADERS[kind])
    given = hashlib.sha256(HEADERS[kind][0][1].removeprefix("Bearer ").encode()).digest()
    tokens = [*TOKENS.values(), "s3cret-all"]
    assert compared == [(given, hashlib.sha256(token.encode()).digest()) for token in tokens]


def test_t74_tokens_that_others_could_read_are_refused(
    repository: Publisher, tokens_file: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"models": repository.root, "port": 0, "tokens_file": tokens_file}
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        reason = f"'tokens_file': on {host} others could read the tokens, .*--tls-certificate"
        with pytest.raises(SettingsError, match=reason):
            Server(Settings(**given, host=host))
        Server(Settings(**given, host=host, tokens_without_tls=True))
    for host in ("127.0.0.1", "localhost", "::1", f"unix:{tmp_path}/socket"):
        Server(Settings(**given, host=host))
    certificate, key = Authority().issue().write(tmp_path)
    Server(Settings(**given, host="0.0.0.0", tls_certificate=certificate, tls_key=key))


def test_management_that_others_can_reach_takes_a_tokens_file(
    repository: Publisher, tokens_file: Path
) -> None:
    shared: dict[str, Any] = {"host": "0.0.0.0", "port": 1, "management_port": 1}
    Server(
        Settings(models=repository.root, **shared, tokens_file=tokens_file, tokens_without_tls=True)
    )


def test_a_file_without_tokens_opens_no_port(repository: Publisher, tmp_path: Path) -> None:
    settings = Settings(models=repository.root, tokens_file=tmp_path / "tokens.toml")
    with pytest.raises(SettingsError, match=r"setting 'tokens_file': cannot read .*: No such file"):
        Server(settings)
