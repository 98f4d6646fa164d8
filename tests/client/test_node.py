"""The programs of examples/clients/node, which call a server from JavaScript by grpc-js."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cases.harness import PATIENCE, Gate, metric, send
from certificates import Authority
from conftest import Running, StartServer
from looking_models import expected, looks
from run_commands import Command
from tiny_models import CLASSIFIER_WEIGHTS, LABELS, Publisher, classifier, softmax, writer

from forwardpass.client import Client
from forwardpass.pixels import encode_png
from forwardpass.server.errors import CallError
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.scheduling.places import RETRY_AFTER
from forwardpass.server.transport.call import Call
from forwardpass.v1 import inference_service_pb2 as pb
from forwardpass.v1.model_service_pb2 import ModelReference, ModelVersion
from forwardpass.wire import Failure, Reason

from .scripted import Refusal, StartScripted

PROGRAMS = Path(__file__).parents[2] / "examples" / "clients" / "node"
# What says which packages they need: by name, and with digests.
PINNED = ("package.json", "package-lock.json")
# How often the programs' retry policy makes a call.
TRIES = 4
ANSWER = pb.PredictResponse(
    model=ModelVersion(name="m", version=3),
    classifications=[pb.Classification(classes=[pb.ClassScore(label="seven", probability=0.5)])],
)


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> Path:
    """What package-lock.json pins: installed once, and kept in pytest's cache."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which comes with Node.js, is not installed")
    assert pytestconfig.cache is not None
    wanted = {name: (PROGRAMS / name).read_bytes() for name in PINNED}
    digest = hashlib.sha256(b"".join(wanted.values())).hexdigest()
    kept = pytestconfig.cache.mkdir(f"node-{digest[:16]}")
    made = kept / "made"
    if not made.exists():
        for name, content in wanted.items():
            (kept / name).write_bytes(content)
        install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        ended = subprocess.run(
            install, cwd=kept, capture_output=True, text=True, timeout=300, check=False
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
            pytest.skip(f"npm cannot install what the programs need; it said: {last}")
        made.touch()
    return kept / "node_modules"


@dataclass(frozen=True)
class Printed:
    """What a program left: its exit code, and its lines of JSON."""

    code: int
    lines: list[Any]

    @property
    def error(self) -> dict[str, Any]:
        """What the one line says of a call that failed."""
        assert self.code == 1
        (line,) = self.lines
        error: dict[str, Any] = line["error"]
        return error


@dataclass(frozen=True)
class Programs:
    """A clone's programs, beside the packages that they need and the contract's files."""

    folder: Path

    @contextmanager
    def started(
        self, program: str, server: str, *arguments: object, **variables: str
    ) -> Iterator["subprocess.Popen[str]"]:
        """Starts a program, which is killed in the end if it still runs."""
        with subprocess.Popen(
            ["node", program, "--server", server, *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, program: str, server: str, *arguments: object, **variables: str) -> Printed:
        with self.started(program, server, *arguments, **variables) as process:
            return finish(process)


def finish(process: "subprocess.Popen[str]") -> Printed:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in {0, 1}, err
    # Where no call failed, the trace of another error explains the exit code.
    assert out, err
    return Printed(process.returncode, [json.loads(line) for line in out.splitlines()])


@pytest.fixture
def programs(packages: Path, run_command: Command, tmp_path: Path) -> Programs:
    folder = tmp_path / "node"
    folder.mkdir()
    for file in PROGRAMS.glob("*.js*"):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(packages)
    assert run_command("protos", "--out", folder / "protos").code == 0
    return Programs(folder)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, no_inline_runs: None) -> Gate:
    """To be asked for before the server, which keeps what it calls."""
    return Gate(monkeypatch)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    images = np.random.default_rng(4).integers(0, 256, (5, 6, 5, 3), np.uint8)
    paths = [tmp_path / f"{row}.png" for row in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode_png(image))
    return paths


@pytest.fixture
def greys(tmp_path: Path) -> tuple[Any, list[Path]]:
    """Images of the classifier's size, and their files."""
    images = np.random.default_rng(6).integers(0, 256, (3, 4, 4, 1), np.uint8)
    paths = [tmp_path / f"grey-{row}.png" for row in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode_png(image))
    return images, paths


def test_predict_names_the_likeliest_classes(
    programs: Programs,
    repository: Publisher,
    start_server: StartServer,
    greys: tuple[Any, list[Path]],
) -> None:
    repository("clf", classifier())
    images, paths = greys
    printed = programs.run("predict.js", start_server().address, "clf", *paths, "--top-k", 2)
    probabilities = softmax(images.reshape(3, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)
    assert (printed.code, len(printed.lines)) == (0, 3)
    for path, row, line in zip(paths, probabilities, printed.lines, strict=True):
        best = np.argsort(-row)[:2]
        assert (line["picture"], line["version"]) == (str(path), "1")
        assert [each["label"] for each in line["classes"]] == [LABELS[index] for index in best]
        told = [each["probability"] for each in line["classes"]]
        assert told == pytest.approx(row[best].tolist(), abs=1e-5)


def test_an_error_tells_its_reason_and_its_field(
    programs: Programs, repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    repository("clf", classifier())
    no_picture = tmp_path / "no-picture.png"
    no_picture.write_bytes(b"x")
    address = start_server().address
    wrong = programs.run("predict.js", address, "clf", no_picture).error
    assert (wrong["code"], wrong["reason"]) == ("INVALID_ARGUMENT", "INVALID_INPUT")
    assert wrong["field"] == "images[0]"
    assert "neither a JPEG nor a PNG" in wrong["message"]
    assert "pushbackMs" not in wrong
    unknown = programs.run("generate-stream.js", address, "clff").error
    assert (unknown["code"], unknown["reason"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "did you mean 'clf'?" in unknown["message"]
    beyond = programs.run("predict.js", address, "clf", no_picture, "--top-k", 9).error
    assert beyond["reason"] == "INVALID_INPUT"


@pytest.fixture
def stuck(gate: Gate, repository: Publisher, start_server: StartServer) -> Iterator[Running]:
    """A server whose models do not answer until the gate opens, which it does before the end."""
    repository("looks", looks())
    repository("poet", writer())
    running = start_server()
    gate.shut()
    yield running
    gate.open()


@pytest.mark.parametrize(
    ("program", "name"),
    [("predict.js", "looks"), ("embed-stream.js", "looks"), ("generate-stream.js", "poet")],
)
def test_each_call_has_a_deadline(
    program: str, name: str, programs: Programs, stuck: Running, pictures: list[Path]
) -> None:
    given = pictures if name == "looks" else []
    options = ["--timeout", 0.3, *(["--top-k", 0] if program == "predict.js" else [])]
    error = programs.run(program, stuck.address, name, *given, *options).error
    assert error["code"] == "DEADLINE_EXCEEDED"


@dataclass(frozen=True)
class Full:
    """A server that has room for one call, and has it.

    Attributes:
        running: The server.
        gate: Where the call is.
        first: The call.
        refused: Released for each call that there is no room for.
        picture: What its model takes.
    """

    running: Running
    gate: Gate
    first: Any
    refused: threading.Semaphore
    picture: Path


@pytest.fixture
def full(
    gate: Gate,
    repository: Publisher,
    start_server: StartServer,
    greys: tuple[Any, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Full]:
    refused = threading.Semaphore(0)
    enter = Admission.enter

    def enter_and_tell(admission: Admission, call: Call, size: int) -> None:
        try:
            enter(admission, call, size)
        except CallError:
            refused.release()
            raise

    # Before the server starts: its methods keep what lets their calls in.
    monkeypatch.setattr(Admission, "enter", enter_and_tell)
    repository("clf", classifier())
    running = start_server(max_in_flight=1)
    gate.shut()
    picture = greys[1][0]
    request = pb.PredictRequest(model=ModelReference(name="clf"), images=[picture.read_bytes()])
    first = send(running, request)
    gate.wait_started()
    yield Full(running, gate, first, refused, picture)
    gate.open()


def test_a_call_that_meets_a_full_queue_comes_again(programs: Programs, full: Full) -> None:
    with programs.started("predict.js", full.running.address, "clf", full.picture) as process:
        # Once it has been refused, there is room for it.
        assert full.refused.acquire(timeout=PATIENCE)
        full.gate.open()
        full.first.result()
        assert finish(process).lines[0]["classes"][0]["label"] in LABELS


def test_a_queue_that_stays_full_ends_a_call_after_some_tries(
    programs: Programs, full: Full
) -> None:
    error = programs.run("predict.js", full.running.address, "clf", full.picture).error
    assert (error["code"], error["reason"]) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert error["pushbackMs"] == RETRY_AFTER * 1000
    assert metric(full.running, "grpc_server_started_total", grpc_method="Predict") == 1 + TRIES


def refusal(reason: Reason, pushback: str) -> Refusal:
    return Refusal.of(Failure(reason, "not now"), pushback)


Predict = Callable[..., Printed]


@pytest.fixture
def predict(programs: Programs, tmp_path: Path) -> Predict:
    """Has the program call a server that answers as it is told, whatever it is sent.

    That is more than the megabyte that grpc-js keeps for another try unless it is told otherwise.
    """
    picture = tmp_path / "large.png"
    picture.write_bytes(bytes(2 << 20))

    def run(target: str, *arguments: object, **variables: str) -> Printed:
        return programs.run("predict.js", target, "m", picture, *arguments, **variables)

    return run


def test_grpc_js_comes_again_when_the_server_says_so(
    scripted: StartScripted, predict: Predict
) -> None:
    full = refusal(Reason.QUEUE_FULL, "400")
    server = scripted(full, full, ANSWER)
    assert predict(server.target).lines[0]["classes"][0]["label"] == "seven"
    numbers = [seen.metadata.get("grpc-previous-rpc-attempts") for seen in server.seen]
    assert numbers == [None, "1", "2"]
    left = [seen.seconds_left for seen in server.seen]
    # By the policy alone it would come again after 0.1 s and 0.2 s, or a fifth more.
    assert min(left[0] - left[1], left[1] - left[2]) > 0.35


def test_what_will_not_do_again_is_not_tried_again(
    scripted: StartScripted, predict: Predict
) -> None:
    server = scripted(refusal(Reason.QUEUE_FULL, "-1"), ANSWER)
    error = predict(server.target).error
    assert (error["reason"], error.get("pushbackMs")) == ("QUEUE_FULL", None)
    assert len(server.seen) == 1


def test_a_server_that_starts_or_stops_is_called_until_the_deadline(
    scripted: StartScripted, predict: Predict
) -> None:
    refusals = [refusal(Reason.MODEL_LOADING, "1"), refusal(Reason.SHUTTING_DOWN, "1")]
    server = scripted(*(TRIES * refusals), ANSWER)
    assert predict(server.target).code == 0
    assert len(server.seen) == 2 * TRIES + 1
    never = scripted(refusal(Reason.MODEL_LOADING, "100"))
    error = predict(never.target, "--timeout", 1).error
    assert (error["code"], error["reason"]) == ("UNAVAILABLE", "MODEL_LOADING")
    assert len(never.seen) > 1


def test_a_call_that_may_have_ended_its_server_is_not_made_again(
    scripted: StartScripted, predict: Predict
) -> None:
    """As a connection that breaks ends its calls: nobody has said anything."""
    server = scripted(Refusal(grpc.StatusCode.UNAVAILABLE, "Socket closed"), ANSWER)
    error = predict(server.target).error
    assert error == {"code": "UNAVAILABLE", "message": "Socket closed"}
    assert len(server.seen) == 1


def test_a_token_is_sent_over_tls(
    scripted: StartScripted, predict: Predict, tmp_path: Path
) -> None:
    authority = Authority()
    pair = authority.issue()
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    server = scripted(ANSWER, credentials=credentials)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    trusting = ["--tls-ca", tmp_path / "ca.pem"]
    assert predict(server.target, *trusting, FORWARDPASS_TOKEN="secret").code == 0
    assert server.seen[0].metadata["authorization"] == "Bearer secret"
    assert predict(server.target, FORWARDPASS_TOKEN="secret").error["code"] == "UNAVAILABLE"
    assert len(server.seen) == 1


def test_a_stream_embeds_pictures_in_their_order(
    programs: Programs, repository: Publisher, start_server: StartServer, pictures: list[Path]
) -> None:
    repository("looks", looks())
    broken = pictures[2].with_name("broken.png")
    broken.write_bytes(b"x")
    given = [*pictures[:2], broken, *pictures[2:]]
    running = start_server()
    printed = programs.run("embed-stream.js", running.address, "looks", *given)
    assert printed.code == 0
    assert [line["picture"] for line in printed.lines] == [str(path) for path in given]
    assert printed.lines[2]["error"]["reason"] == "INVALID_INPUT"
    with Client(running.address) as client:
        space = client.embed("looks", images=pictures[:1]).space_id
    for path, line in zip(given, printed.lines, strict=True):
        if path != broken:
            assert line["vector"] == pytest.approx(expected(path).tolist(), rel=1e-5)
            assert line["spaceId"] == space


def test_a_stream_waits_for_a_server_that_holds_it_back(
    programs: Programs, gate: Gate, stuck: Running, tmp_path: Path
) -> None:
    """Of 23 megabytes the buffers of grpc-js, of the socket and of the server's core hold half."""
    large = tmp_path / "large.png"
    noise = np.random.default_rng(7).integers(0, 256, (160, 160, 3), np.uint8)
    large.write_bytes(encode_png(noise))
    given = [large] * 300
    with programs.started("embed-stream.js", stuck.address, "looks", *given) as process:
        assert process.stderr is not None
        assert "of 300 sent: waiting for the server" in process.stderr.readline()
        gate.open()
        printed = finish(process)
    assert printed.code == 0
    assert [line["picture"] for line in printed.lines] == [str(large)] * 300
    assert all(len(line["vector"]) == 4 for line in printed.lines)


def test_a_text_is_printed_as_it_is_written(
    programs: Programs, repository: Publisher, start_server: StartServer
) -> None:
    repository("poet", writer())
    running = start_server()
    # A seed of 64 bits, which a JavaScript number would round.
    seed = (1 << 64) - 1
    options = ["--prompt", "ab", "--length", 12, "--temperature", 0.5, "--seed", seed]
    printed = programs.run("generate-stream.js", running.address, "poet", *options)
    assert printed.code == 0
    assert len(printed.lines) > 1
    assert {line["seed"] for line in printed.lines} == {str(seed)}
    with Client(running.address) as client:
        whole = client.generate("poet", prompt="ab", length=12, temperature=0.5, seed=seed)
    assert "".join(line["texts"][0] for line in printed.lines) == whole.texts[0]
