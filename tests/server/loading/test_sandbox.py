"""The process that tries a version: what it is given, what it may take, and what it tells."""

import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from confined import RAISE_LIMITS, check
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, classifier, endless, model, picker

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, write_manifest
from forwardpass.server.loading.files import RepositoryFiles
from forwardpass.server.loading.sandbox import Limits, Sandbox, SandboxError
from forwardpass.server.loading.source import SourceError, Unparsed, read_files, read_source

MIB = 1 << 20
# Of processor time: what the sandbox's process takes to start, many times over.
BUSY_SECONDS = 3.0


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(Limits(30, 0))
    yield sandbox
    sandbox.close()


def unparsed(folder: Path) -> Unparsed:
    files = RepositoryFiles(folder.parents[1])
    return read_files(files, folder, manifest_required=False)


def of_bytes(size: int) -> TinyModel:
    """Makes an array of so many bytes when it runs."""
    fill = helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
    return TinyModel(
        model(
            [
                helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=fill),
                helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
                helper.make_node("Add", ["x", "sum"], ["y"]),
            ],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
            {"shape": np.array([size // 4], np.int64)},
        )
    )


def varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def of_empty_nodes(path: Path, size: int) -> None:
    """Writes an ONNX file of so many bytes: a graph of nodes without anything, two bytes each."""
    nodes = b"\x0a\x00" * (size // 2)
    path.write_bytes(b"\x08\x0a\x3a" + varint(len(nodes)) + nodes)


def of_zeros(path: Path, size: int) -> None:
    """Writes golden data that unpack to so many bytes."""
    with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as file:
        for name in ("inputs/image.npy", "outputs/probabilities.npy"):
            with file.open(name, "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (size // 2,)}
                np.lib.format.write_array_header_2_0(member, header)
                for _ in range(size // 2 // MIB):
                    member.write(bytes(MIB))


def test_what_survives_is_told_by_its_files(repository: Publisher, sandbox: Sandbox) -> None:
    folder = repository("clf", classifier())
    files = RepositoryFiles(repository.root)
    source = read_source(files, folder, manifest_required=True)
    assert sandbox.check(unparsed(folder)).identity == source.identity
    assert source.golden_digest in source.identity


def test_t126_a_graph_may_take_what_its_size_explains_and_no_more(
    repository: Publisher, sandbox: Sandbox
) -> None:
    for number in range(3):
        sandbox.check(unparsed(repository("pick", picker(), 2 * number + 1)))
        greedy = unparsed(repository("pick", of_bytes(200 * MIB), 2 * number + 2))
        with pytest.raises(SandboxError, match="took more than 64 MiB"):
            sandbox.check(greedy)
    more = Sandbox(Limits(30, 768 * MIB))
    assert more.check(greedy)
    more.close()


def test_t126_its_environment_has_nothing_that_it_does_not_need(
    repository: Publisher, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDPASS_MANAGEMENT_TOKEN", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("LC_NUMERIC", "C")
    assert sandbox.check(unparsed(repository("pick", picker())))
    assert sandbox._process is not None
    environment = Path(f"/proc/{sandbox._process.pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in environment} - {""}
    assert b"s3cret" not in b"".join(environment)
    assert not [name for name in names if name.startswith("FORWARDPASS")]
    assert {"PATH", "LC_NUMERIC", "ORT_DISABLE_TELEMETRY"} <= names


def test_what_native_code_prints_is_no_answer(
    repository: Publisher, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = (
        "import os\n"
        "from forwardpass.server.loading import trial\n"
        "trial.Session.run = lambda *_: os.write(1, b'noise\\n')\n"
        "trial.answer_questions()"
    )
    monkeypatch.setattr(
        "forwardpass.server.loading.sandbox._COMMAND", [sys.executable, "-c", noisy]
    )
    files = unparsed(repository("pick", picker()))
    assert sandbox.check(files) == sandbox.check(files)


def test_it_goes_first_where_memory_runs_out(repository: Publisher, sandbox: Sandbox) -> None:
    sandbox.check(unparsed(repository("pick", picker())))
    assert sandbox._process is not None
    score = Path(f"/proc/{sandbox._process.pid}/oom_score_adj").read_text()
    assert int(score) == 1000


@pytest.mark.parametrize(
    "kind",
    [resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_CPU],
    ids=["as", "data", "cpu"],
)
def test_t126_a_limit_that_was_set_for_the_server_is_kept(repository: Publisher, kind: int) -> None:
    repository("pick", picker())
    most = 600 if kind == resource.RLIMIT_CPU else 6 << 30
    code, models, said = check(repository.root, hard={kind: most}, without=[RAISE_LIMITS])
    assert models["pick"]["state"] == "READY", (models, said)
    assert code == 0


def empty_nodes(folder: Path) -> None:
    of_empty_nodes(folder / MODEL_FILE, 60 * MIB)


def zeros(folder: Path) -> None:
    of_zeros(folder / GOLDEN_FILE, 2048 * MIB)


def large_zeros(folder: Path) -> None:
    with (folder / GOLDEN_FILE).open("wb") as file:
        file.truncate(2048 * MIB)


def large_weights(folder: Path) -> None:
    """A file of 64 TiB that takes no room on the disk."""
    made = model(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        {"weights": np.zeros((4, 3), np.float32)},
    )
    (tensor,) = made.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (folder / MODEL_FILE).write_bytes(made.SerializeToString())
    with (folder / "w.bin").open("wb") as file:
        file.truncate(1 << 43)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (empty_nodes, "took more than 304 MiB"),
        (zeros, "golden.npz cannot be read: it unpacks to 2147483"),
        (large_zeros, "golden.npz has 2147483648 bytes; at most 268435456 are read"),
        (large_weights, "w.bin has 8796093022208 bytes; at most "),
    ],
)
def test_t126_a_file_that_would_take_all_memory_does_not_end_the_server(
    repository: Publisher, damage: Callable[[Path], None], reason: str
) -> None:
    """The server may take a third of what the file asks for, so that it would end if it tried."""
    repository("pick", picker())
    damage(repository("bad", picker()))
    code, models, said = check(repository.root, soft={resource.RLIMIT_DATA: 700 * MIB})
    assert models["bad"]["state"] == "FAILED", (models, said)
    assert reason in models["bad"]["reason"]
    assert models["pick"]["state"] == "READY"
    assert code == 1


def test_what_cannot_be_parsed_is_told_with_its_reason(
    repository: Publisher, sandbox: Sandbox
) -> None:
    folder = repository("clf", classifier())
    (folder / MODEL_FILE).write_bytes(b"no ONNX")
    write_manifest(folder)
    with pytest.raises(SourceError, match="the file is not an ONNX model"):
        sandbox.check(unparsed(folder))


def seconds_used(process: int) -> float:
    """Returns how much processor time a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_t126_it_ends_with_the_server_whatever_it_is_at(tmp_path: Path) -> None:
    folder = Publisher(tmp_path)("endless", endless())
    program = (
        "import pathlib, sys\n"
        "from forwardpass.server.loading.files import RepositoryFiles\n"
        "from forwardpass.server.loading.sandbox import Limits, Sandbox\n"
        "from forwardpass.server.loading.source import read_files\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "files = read_files(RepositoryFiles(folder.parents[1]), folder, manifest_required=False)\n"
        "sandbox = Sandbox(Limits(100000, 1 << 30))\n"
        "sandbox.start()\n"
        "print(sandbox._process.pid, flush=True)\n"
        "sandbox.check(files)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        process = int(server.stdout.readline())
        trial = os.pidfd_open(process)
        try:
            ended = select.poll()
            ended.register(trial, select.POLLIN)
            # By then it has long been in the midst of the graph.
            while seconds_used(process) < BUSY_SECONDS:
                assert not ended.poll(100)
            server.kill()
            assert ended.poll(60_000)
        finally:
            os.close(trial)
