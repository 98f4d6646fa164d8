"""Calls that carry tokens: who may make which, on both transports, and while tokens change."""

import hashlib
import hmac
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import mkdtemp
from typing import Any, Self, TypeAlias
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from certificates import Authority
from conftest import Running, StartServer
from failures import read_failure
from onnx import TensorProto
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tiny_models import Publisher, echo

from forwardpass.server.app import Server
from forwardpass.server.build import build_admission, open_repository
from forwardpass.server.process import watched_files
from forwardpass.server.repository.readiness import Policy, Readiness
from forwardpass.server.routes import Services, methods
from forwardpass.server.rpc import open_streams
from forwardpass.server.rpc.inputs import InputReader
from forwardpass.server.rpc.open_streams import OpenStreams
from forwardpass.server.rpc.stream import IN_FLIGHT
from forwardpass.server.rpc.tokens import Permission
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictStreamRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import Failure, Reason, to_tensor

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

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
ALL, GONE, OLD, NEW = "s3cret-all", "s3cret-gone", "s3cret-old", "s3cret-new"


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
    path.write_text("".join([*entries, entry("all", ALL, *TOKENS)]))
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


@dataclass(frozen=True)
class Kind:
    """A way for a call to carry a token.

    Attributes:
        metadata: What it carries.
        permits: What that permits; None where it is no token.
    """

    metadata: Metadata
    permits: frozenset[str] | None = None


EVERYTHING = frozenset(TOKENS)
KINDS: dict[str, Kind] = {
    "none": Kind(()),
    "wrong": Kind(carrying("s3cret-other")),
    "cut off": Kind(carrying(ALL[:-1])),
    "longer": Kind(carrying(ALL + "l")),
    "long": Kind(carrying(ALL + "l" * 5_000)),
    "upper case": Kind(carrying(ALL.upper())),
    "its digest": Kind(carrying(hashlib.sha256(ALL.encode()).hexdigest())),
    "empty": Kind(carrying("")),
    "two blanks": Kind(carrying(f" {ALL}")),
    "bare": Kind((("authorization", ALL),)),
    "no header": Kind((("authorization", ""),)),
    "another scheme": Kind((("authorization", f"Basic {ALL}"),)),
    "a scheme without end": Kind((("authorization", f"Bearer{ALL}"),)),
    "another header": Kind((("x-api-key", ALL), ("proxy-authorization", f"Bearer {ALL}"))),
    "bytes": Kind((("authorization-bin", f"Bearer {ALL}".encode()),)),
    "two": Kind((*carrying(ALL), *carrying(NEW))),
    "the same twice": Kind((*carrying(ALL), *carrying(ALL))),
    "a wrong one first": Kind((*carrying("s3cret-other"), *carrying(ALL))),
    "a wrong one last": Kind((*carrying(ALL), *carrying("s3cret-other"))),
    "two in one": Kind(carrying(f"{ALL},Bearer {NEW}")),
    "taken back": Kind(carrying(GONE)),
    "to be replaced": Kind(carrying(OLD), EVERYTHING),
    "its replacement": Kind(carrying(NEW), EVERYTHING),
    # As RFC 9110 has it.
    "a scheme in lower case": Kind((("authorization", f"bearer {ALL}"),), EVERYTHING),
    "all": Kind(carrying(ALL), EVERYTHING),
    **{name: Kind(carrying(token), frozenset({name})) for name, token in TOKENS.items()},
}
NOT_SERVED = (
    UNKNOWN,
    f"{NATIVE}/predict",
    f"{NATIVE}/Predict/",
    "/forwardpass.v1.Nothing/Predict",
    "/grpc.health.v1.Health/List",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    f"{NATIVE}/{'x' * 1_000}",
)


def expected(path: str, kind: Kind, health: str | None) -> str | None:
    """Returns the refusal that a call must meet; None for those that are let in."""
    needed = NEEDED.get(path)
    if needed == "health":
        needed = health
        if needed is None:
            return None
    if kind.permits is None:
        return UNAUTHENTICATED
    return DENIED if needed not in {None, *kind.permits} else None


@pytest.mark.usefixtures("always_looks")
@pytest.mark.parametrize("health", [None, "read"])
def test_t69_t70_t73_every_method_of_the_server_by_every_kind_of_token(
    repository: Publisher, start_server: StartServer, tokens_file: Path, health: str | None
) -> None:
    methods_of_server = served(repository.root)
    assert methods_of_server == set(NEEDED)
    others = tokens_file.read_text()
    tokens_file.write_text(others + entry("gone", GONE, *TOKENS))
    with capture_logs() as lines:
        running = start_server(
            **shared_port(),
            tokens_file=tokens_file,
            reflection=True,
            health_needs_token=health is not None,
        )
        assert outcome(running.channel, f"{MODELS}/ListModels", carrying(GONE)) == "OK"
        replaced = entry("two", OLD, *TOKENS) + entry("two", NEW, *TOKENS, is_hashed=True)
        tokens_file.write_text(others + replaced)
        found = {
            (name, path): outcome(running.channel, path, kind.metadata)
            for name, kind in KINDS.items()
            for path in (*methods_of_server, *NOT_SERVED)
        }
        denied = samples(running, "forwardpass_access_denied_total")
    assert "s3cret" not in str(lines)
    refused = {call: how for call, how in found.items() if how in {UNAUTHENTICATED, DENIED}}
    assert refused == {
        (name, path): refusal
        for name, path in found
        if (refusal := expected(path, KINDS[name], health))
    }
    let_in = {call: how for call, how in found.items() if call not in refused}
    assert not {
        call for call, how in let_in.items() if call[1] in NEEDED and how == "UNIMPLEMENTED"
    }
    counted = Counter(refused.values())
    assert denied["missing"] + denied["unknown"] == counted[UNAUTHENTICATED]
    assert denied["permission"] == counted[DENIED]


def test_t69_t72_t73_what_is_not_served_is_not_told_without_a_token(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    """Neither reflection nor management, which are off."""
    running = start_server(tokens_file=tokens_file)
    off = {path for path, needed in NEEDED.items() if needed == "manage" or "reflection" in path}
    assert len(off) == 6
    for path in off:
        assert outcome(running.channel, path, ()) == UNAUTHENTICATED
        assert outcome(running.channel, path, carrying(ALL)) == "UNIMPLEMENTED"


def test_t69_metadata_that_is_too_long_is_refused(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(tokens_file=tokens_file)
    call: Any = running.channel.unary_unary(f"{MODELS}/ListModels")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", metadata=carrying(ALL + "l" * 20_000), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(b"", metadata=carrying(ALL), timeout=PATIENCE) is not None


def test_t69_a_call_without_a_token_is_refused_before_its_message_is_received(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(tokens_file=tokens_file)
    for path in (f"{NATIVE}/Predict", f"{NATIVE}/GenerateStream", f"{NATIVE}/PredictStream"):
        never: SimpleQueue[bytes | None] = SimpleQueue()
        for metadata, reason in ((), UNAUTHENTICATED), (carrying(TOKENS["read"]), DENIED):
            method: Any = running.channel.stream_stream(path)
            call = method(iter(never.get, None), metadata=metadata, timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert read_failure(caught.value).reason == reason
            never.put(None)


def test_t72_management_calls_take_a_token_on_their_own_port_too(
    repository: Publisher, start_server: StartServer, tokens_file: Path
) -> None:
    running = start_server(management_port=0, tokens_file=tokens_file)
    path = f"{MODELS}/LoadModel"
    assert outcome(running.channel, path, carrying(TOKENS["manage"])) == "UNIMPLEMENTED"
    assert outcome(running.channel, path, ()) == UNAUTHENTICATED
    with grpc.insecure_channel(f"127.0.0.1:{running.server.management_port}") as channel:
        assert outcome(channel, path, ()) == UNAUTHENTICATED
        assert outcome(channel, path, carrying(TOKENS["read"])) == DENIED
        assert outcome(channel, path, carrying(TOKENS["manage"])) == "INVALID_INPUT"
        assert outcome(channel, f"{MODELS}/ListModels", ()) == UNAUTHENTICATED
        assert outcome(channel, f"{MODELS}/ListModels", carrying(TOKENS["read"])) == "UNIMPLEMENTED"


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
    held = method(b"", metadata=carrying(TOKENS["read"]), timeout=PATIENCE)
    next(held)
    assert outcome(running.channel, watch, ()) == UNAUTHENTICATED
    assert outcome(running.channel, watch, carrying(TOKENS["infer"])) == DENIED
    assert outcome(running.channel, watch, carrying(TOKENS["read"])) == "QUEUE_FULL"
    held.cancel()


def wait_until(comes_true: Callable[[], bool]) -> None:
    for _ in range(100 * PATIENCE):
        if comes_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it has not come true")


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
    reasons = ("missing", "unknown", "permission", "revoked", "calls", "bytes", "streams")
    none = dict.fromkeys(reasons, 0)
    assert samples(running, denied) == none
    path = f"{MODELS}/ListModels"
    for kind in ("none", "bare", "wrong", "infer", "embed", "manage", "read"):
        outcome(running.channel, path, KINDS[kind].metadata)
    outcome(running.channel, UNKNOWN, KINDS["wrong"].metadata)
    assert samples(running, denied) == none | {"missing": 2, "unknown": 2, "permission": 3}
    assert samples(running, "forwardpass_tokens_failing") == {"": 0}
    whole = tokens_file.read_text()
    with capture_logs() as lines:
        tokens_file.write_text(whole[:-2])
        # Nobody calls: the scrape looks.
        assert samples(running, "forwardpass_tokens_failing") == {"": 1}
        assert outcome(running.channel, path, carrying(TOKENS["read"])) == "OK"
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


class Questions:
    """A stream of server reflection that is open: each question is answered.

    Args:
        running: The server.
        token: What it carries.
    """

    def __init__(self, running: Running, token: str) -> None:
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        self._questions: SimpleQueue[bytes | None] = SimpleQueue()
        method: Any = running.channel.stream_stream(path)
        questions = iter(self._questions.get, None)
        self._answers = method(questions, metadata=carrying(token), timeout=PATIENCE)
        self.ask()

    def ask(self) -> None:
        self._questions.put(b"")
        next(self._answers)

    def wait_for_end(self) -> Failure:
        """Returns what ends it, while nobody calls."""
        with pytest.raises(grpc.RpcError) as caught:
            next(self._answers)
        self._questions.put(None)
        return read_failure(caught.value)

    def close(self) -> None:
        self._questions.put(None)
        assert list(self._answers) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ((), (Reason.UNAUTHENTICATED, "has been taken back")),
        (("jobs", NEW, "read"), (Reason.UNAUTHENTICATED, "has been taken back")),
        (("jobs", OLD, "infer"), (Reason.PERMISSION_DENIED, "permission read, .* only infer")),
    ],
)
def test_t70_a_stream_ends_soon_after_its_token_was_taken_back(
    repository: Publisher,
    start_server: StartServer,
    tokens_file: Path,
    changed: tuple[str, ...],
    told: tuple[Reason, str],
) -> None:
    others = tokens_file.read_text()
    tokens_file.write_text(others + entry("jobs", OLD, "read"))
    running = start_server(tokens_file=tokens_file, reflection=True)
    stream, other = Questions(running, OLD), Questions(running, TOKENS["read"])
    tokens_file.write_text(others + (entry(*changed) if changed else ""))
    failure = stream.wait_for_end()
    assert failure.reason is told[0]
    assert re.search(told[1], failure.message)
    assert "s3cret" not in failure.message
    other.ask()
    other.close()
    assert samples(running, "forwardpass_access_denied_total")["revoked"] == 1


def test_t70_a_watch_of_health_ends_too_and_a_file_that_broke_ends_nothing(
    repository: Publisher,
    start_server: StartServer,
    tokens_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    always_looks: None,
) -> None:
    looks = threading.Semaphore(0)
    look = OpenStreams._look

    def look_and_tell(self: OpenStreams) -> None:
        look(self)
        looks.release()

    monkeypatch.setattr(open_streams, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(OpenStreams, "_look", look_and_tell)
    running = start_server(tokens_file=tokens_file, reflection=True, health_needs_token=True)
    method: Any = running.channel.unary_stream("/grpc.health.v1.Health/Watch")
    watch = method(b"", metadata=carrying(TOKENS["read"]), timeout=PATIENCE)
    next(watch)
    stream = Questions(running, TOKENS["read"])
    tokens_file.write_text("[[tokens]]")
    for _ in range(3):
        assert looks.acquire(timeout=PATIENCE)
    stream.ask()
    tokens_file.write_text(entry("other", NEW, "read"))
    assert stream.wait_for_end().reason is Reason.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        list(watch)
    assert read_failure(caught.value).reason is Reason.UNAUTHENTICATED


def test_t70_a_stream_ends_whose_caller_does_not_read(
    repository: Publisher,
    start_server: StartServer,
    transport: str,
    tokens_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_streams, "_LOOK_SECONDS", 0.05)
    repository("echo", echo(TensorProto.FLOAT, ["n"]))
    running = start_server(tokens_file=tokens_file)
    # More than the network takes before anybody reads.
    long = to_tensor(np.zeros(3 << 18, np.float32))
    request = PredictRequest(model=ModelReference(name="echo"), inputs={"x": long})
    message = PredictStreamRequest(request=request).SerializeToString()
    method: Any = running.channel.stream_stream(f"{NATIVE}/PredictStream")
    call = method(iter([message] * IN_FLIGHT), metadata=carrying(TOKENS["infer"]), timeout=PATIENCE)
    slow = running.server._transit.slow
    wait_until(lambda: any(transfer.unsent for transfer in list(slow)))
    streams = "forwardpass_streams_in_flight"
    assert samples(running, streams) == {"": 1}
    tokens_file.write_text(entry("other", NEW, "infer"))
    wait_until(lambda: samples(running, streams) == {"": 0})
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    # grpcio has no other status for what is cut off.
    code = grpc.StatusCode.CANCELLED if transport == "stock" else grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.code() is code


def test_streams_of_tokens_are_looked_after_only_while_there_are_any(
    repository: Publisher,
    start_server: StartServer,
    tokens_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_streams, "_LOOK_SECONDS", 0.01)
    running = start_server(tokens_file=tokens_file, reflection=True)

    def is_looking() -> bool:
        return any(thread.name == "open_streams" for thread in threading.enumerate())

    wait_until(lambda: not is_looking())
    outcome(running.channel, f"{MODELS}/ListModels", carrying(ALL))
    assert not is_looking()
    for _ in range(2):
        stream = Questions(running, ALL)
        assert is_looking()
        stream.close()
        wait_until(lambda: not is_looking())


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
    token = {"wrong": "s3cret-other", "all": ALL}.get(kind) or TOKENS[kind]
    outcome(running.channel, f"{MODELS}/ListModels", carrying(token))
    given = hashlib.sha256(token.encode()).digest()
    tokens = [*TOKENS.values(), ALL]
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
