"""The unit: taken by systemd, confined, and the server runs as it is confined."""

import configparser
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from server.test_process import serving
from tiny_models import Publisher, classifier

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

from .conftest import FindTool
from .sources import BASE, ROOT, Image, Manifests

UNIT = ROOT / "deploy/systemd/forwardpass.service"
PROGRAM = "/opt/forwardpass/bin/forwardpass-serve"
# In hundredths of what systemd finds to expose a service at most; what is above 20 it calls medium.
EXPOSURE = 20

# What the program runs.
SERVE = (sys.executable, "-c", "from forwardpass.server.cli import main; main()")

Analyze = Callable[..., "subprocess.CompletedProcess[str]"]


class Directives(dict[str, str]):
    """The directives of the unit's service; of one that stands there again, the last."""

    def __init__(self) -> None:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # they have capitals
        parser.read(UNIT, encoding="utf-8")
        super().__init__(parser["Service"])


@pytest.fixture(scope="module")
def directives() -> Directives:
    return Directives()


@pytest.fixture
def analyze(find_tool: FindTool) -> Analyze:
    """Runs systemd-analyze, which needs no systemd that runs."""
    program = find_tool("systemd-analyze")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_systemd_takes_the_unit(analyze: Analyze, tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"ExecStart={PROGRAM} " in text
    # It looks for the program, which is not installed here.
    here = tmp_path / UNIT.name
    here.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    verified = analyze("verify", str(here))
    assert (verified.returncode, verified.stderr) == (0, "")
    here.write_text(here.read_text(encoding="utf-8").replace("KillMode", "KillMood"))
    assert "KillMood" in analyze("verify", str(here)).stderr


def test_systemd_finds_it_confined(analyze: Analyze, tmp_path: Path) -> None:
    security = ("security", "--offline=yes", f"--threshold={EXPOSURE}")
    judged = analyze(*security, str(UNIT))
    assert judged.returncode == 0, judged.stdout
    open_to_all = tmp_path / UNIT.name
    open_to_all.write_text(f"[Service]\nExecStart={PROGRAM}\n", encoding="utf-8")
    assert analyze(*security, str(open_to_all)).returncode != 0


def test_it_has_the_limits_and_the_drain_of_a_pod(
    directives: Directives, manifests: Manifests, image: Image
) -> None:
    limits = manifests.container["resources"]["limits"]
    assert f"{directives['MemoryMax']}i" == limits["memory"]
    assert directives["CPUQuota"] == f"{100 * int(limits['cpu'])}%"
    drain = int(manifests.settings["FORWARDPASS_DRAIN_SECONDS"])
    assert directives["TimeoutStopSec"] == str(drain + 10)
    # What the README puts there.
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    settings = (BASE / "settings.env").relative_to(ROOT)
    assert f"install -D -m 644 {settings} {directives['EnvironmentFile']}\n" in readme
    # Of an image; the server's own is in a home, of which the unit's user has none.
    assert "FORWARDPASS_CACHE_DIR" in image.environment
    assert directives["Environment"] == "FORWARDPASS_CACHE_DIR=%C/" + directives["CacheDirectory"]


def test_a_wrong_setting_is_not_tried_again(directives: Directives, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*SERVE, str(tmp_path), "--drain-seconds", "soon"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert str(ended.returncode) in directives["RestartPreventExitStatus"].split()


# The server as the unit's directives have it, by the kernel's own means; the first process becomes
# what it is given. PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN, of linux/prctl.h.
REFUSING_CODE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_it_makes_no_memory_executable(directives: Directives, repository: Publisher) -> None:
    assert directives["MemoryDenyWriteExecute"] == "yes"
    refusing = (sys.executable, "-c", REFUSING_CODE)

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*refusing, *command], capture_output=True, text=True, timeout=60, check=False
        )

    executable = run(sys.executable, "-c", "import mmap; mmap.mmap(-1, 4096, prot=7)")
    if executable.returncode == 77:
        pytest.skip("this kernel cannot refuse executable memory (Linux 6.3 can)")
    assert "PermissionError" in executable.stderr
    repository("clf", classifier())
    served = run(*SERVE, "check", str(repository.root), "--cache-dir", "off")
    assert served.returncode == 0, served.stderr
    assert '"state": "READY"' in served.stdout


def members(analyze: Analyze, name: str) -> set[str]:
    """Returns the system calls of a set, and of those in it."""
    lines = map(str.strip, analyze("syscall-filter", name).stdout.splitlines()[1:])
    names = [line for line in lines if line and not line.startswith("#")]
    found: set[str] = set()
    for each in names:
        found |= members(analyze, each) if each.startswith("@") else {each}
    return found


def test_it_makes_no_system_call_that_is_filtered(
    analyze: Analyze, find_tool: FindTool, repository: Publisher, tmp_path: Path
) -> None:
    text = UNIT.read_text(encoding="utf-8")
    (allowed,) = re.findall(r"^SystemCallFilter=(@\S+)$", text, re.MULTILINE)
    (denied,) = re.findall(r"^SystemCallFilter=~(@\S+)$", text, re.MULTILINE)
    may_call = members(analyze, allowed) - members(analyze, denied)
    repository("clf", classifier())
    trace = tmp_path / "trace"
    wrapper = [find_tool("strace"), "-f", "-qq", "-o", str(trace)]
    cache = ("--cache-dir", str(tmp_path / "cache"))
    with serving(repository.root, *cache, "--watch", wrapper=wrapper) as server:
        server.wait_for("ready")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = PredictRequest(
                model=ModelReference(name="clf"),
                inputs={"image": to_tensor(np.zeros((1, 4, 4, 1), np.uint8))},
            )
            InferenceServiceStub(channel).Predict(request, timeout=60)
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    calls = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"execve", "recvmsg", "prlimit64"} <= calls
    assert calls <= may_call
