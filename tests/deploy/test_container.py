"""The image, built and run for real, under the limits that the manifests set.

Needs root, and Debian's podman, buildah, runc and mmdebstrap. No image is pulled: a Debian with
Python, made from packages, stands in for the base image.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import Publisher, TinyModel, busy, classifier, embedder

from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

from .conftest import FindTool
from .sources import DOCKERFILE, ROOT, Manifests, compose

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

BASE_IMAGE = "localhost/forwardpass-test-base"
IMAGE = "localhost/forwardpass-test"
# Where a machine keeps its own package index and the authorities it trusts: the build needs them,
# the image does not get them.
MACHINE = [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
# The host's network, because one of its own takes plugins and rights that test machines lack.
CONTAINERS = """
[containers]
netns = "host"
default_ulimits = ["nofile=10000:10000", "nproc=5000:5000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Engine:
    """Podman and buildah with a store of their own."""

    folder: Path

    def __call__(self, *command: str, check: bool = True) -> str:
        """Runs a command and returns what it printed to standard output."""
        result = self.run(*command)
        assert not check or result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={
                **os.environ,
                "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="session")
def engine(find_tool: FindTool) -> Iterator[Engine]:
    for name in ("podman", "buildah", "runc", "mmdebstrap"):
        find_tool(name)
    if os.geteuid() != 0:
        pytest.skip("mmdebstrap and the store need root")
    # Not pytest's folder: Podman takes paths of 50 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp"))
    (folder / "containers.conf").write_text(CONTAINERS)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    engine = Engine(folder)
    yield engine
    engine("podman", "pod", "rm", "--all", "--force", check=False)
    engine("podman", "rm", "--all", "--force", check=False)
    engine("podman", "rmi", "--all", "--force", check=False)
    engine("umount", f"{folder}/store/overlay", check=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built(engine: Engine, pytestconfig: pytest.Config) -> Engine:
    """The engine, with the image in its store."""
    assert pytestconfig.cache is not None
    base = pytestconfig.cache.mkdir("deploy") / "bookworm-python3.tar"
    if not base.exists():
        partial = base.with_suffix(".partial.tar")
        engine(
            *("mmdebstrap", "--mode=root", "--variant=minbase"),
            *("--include=python3,python3-venv,ca-certificates", "bookworm", str(partial)),
        )
        partial.rename(base)
    engine("podman", "import", str(base), BASE_IMAGE)
    attempt = engine.run("podman", "run", "--rm", "--cpus=1", "--memory=64m", BASE_IMAGE, "true")
    if attempt.returncode != 0:
        pytest.skip(f"podman runs no container here: {attempt.stderr.strip()}")
    digest = engine("podman", "image", "inspect", "--format={{.Digest}}", BASE_IMAGE).strip()
    engine(
        *("buildah", "bud", "--isolation=chroot", "--network=host", "--pull-never"),
        # Only Docker's format has a place for the health check.
        *("--format=docker", f"--build-arg=BASE={BASE_IMAGE}@{digest}", f"--tag={IMAGE}"),
        *(f"--volume={path}:{path}:ro" for path in MACHINE),
        *("--file", str(DOCKERFILE), str(ROOT)),
    )
    return engine


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Container:
    """A container whose server is ready."""

    engine: Engine
    name: str
    port: int
    metrics_port: int

    @property
    def process(self) -> Path:
        """Its first process, in /proc of the host."""
        return Path("/proc") / self.inspect("{{.State.Pid}}")

    def inspect(self, template: str) -> str:
        return self.engine("podman", "inspect", "--format", template, self.name).strip()

    def status(self) -> dict[str, str]:
        text = (self.process / "status").read_text(encoding="ascii")
        return {name: value.strip() for name, value in re.findall(r"(\w+):(.*)", text)}

    def runs(self, *command: str) -> bool:
        """Whether a command inside it succeeds."""
        return self.engine.run("podman", "exec", self.name, *command).returncode == 0

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        with urllib.request.urlopen(url, timeout=30) as response:
            text: str = response.read().decode()
            return text

    def log(self) -> list[dict[str, Any]]:
        result = self.engine.run("podman", "logs", self.name)
        lines = (result.stdout + result.stderr).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def has_children(self) -> bool:
        return any(path.read_text("ascii") for path in self.process.glob("task/*/children"))

    def is_ready(self) -> bool:
        try:
            self.get("/readyz")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def wait_until(self, true: Callable[[], bool]) -> None:
        for _ in range(600):
            if true():
                return
            time.sleep(0.1)
        raise AssertionError(f"waited in vain: {self.log()}")

    def wait_for(self, event: str) -> dict[str, Any]:
        """Waits until it has logged an event, and returns the line."""
        lines: list[dict[str, Any]] = []

        def found() -> bool:
            lines[:] = [line for line in self.log() if line["event"] == event]
            return bool(lines)

        self.wait_until(found)
        return lines[0]

    def terminate(self) -> None:
        self.engine("podman", "kill", "--signal=TERM", self.name)

    def wait(self) -> int:
        """Waits for its end, and returns its exit code."""
        return int(self.engine("podman", "wait", self.name))


@contextmanager
def running(
    engine: Engine, models: Path, *, cpus: float = 1, ready: bool = True, drain_seconds: int = 30
) -> Iterator[Container]:
    container = Container(engine, f"server-{free_port()}", free_port(), free_port())
    engine(
        *("podman", "run", "--detach", "--name", container.name, "--read-only"),
        # Podman's own idea of read-only has a writable /tmp.
        "--read-only-tmpfs=false",
        *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *(f"--cpus={cpus}", "--memory=512m", f"--volume={models}:/models:ro"),
        f"--env=FORWARDPASS_PORT={container.port}",
        f"--env=FORWARDPASS_METRICS_PORT={container.metrics_port}",
        f"--env=FORWARDPASS_DRAIN_SECONDS={drain_seconds}",
        IMAGE,
    )
    try:
        if ready:
            container.wait_until(container.is_ready)
        yield container
    finally:
        engine("podman", "rm", "--force", container.name)


def readable(repository: Publisher) -> Path:
    """Lets the container's user in: pytest's folders are for their owner only."""
    for folder in repository.root.parents[:3]:
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    return repository.root


def predict(port: int, model: str, **inputs: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = PredictRequest(
            model=ModelReference(name=model),
            inputs={name: to_tensor(value) for name, value in inputs.items()},
        )
        return InferenceServiceStub(channel).Predict(request, timeout=60)


def check_classifier(port: int) -> None:
    golden = classifier().golden
    assert golden is not None
    answer = predict(port, "clf", image=golden.inputs["image"])
    probabilities = from_tensor(answer.outputs["probabilities"])
    np.testing.assert_allclose(probabilities, golden.outputs["probabilities"], rtol=1e-5)


def test_it_answers_confined(built: Engine, repository: Publisher) -> None:
    repository("clf", classifier())
    with running(built, readable(repository)) as container:
        check_classifier(container.port)
        status = container.status()
        assert status["Uid"].split() == ["10001"] * 4
        assert int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        for path in ("/x", "/tmp/x", "/models/x", "/opt/venv/x"):
            assert not container.runs("touch", path)
        assert container.runs("test", "-r", "/models/clf/1/model.onnx")
        assert built.run("podman", "healthcheck", "run", container.name).returncode == 0


def test_the_image_holds_the_server_only(built: Engine) -> None:
    look = ("podman", "run", "--rm", "--entrypoint")
    for tool in ("gcc", "make", "curl", "git"):
        assert built.run(*look, tool, IMAGE, "--version").returncode != 0, tool
    code = (
        "import importlib.util as u, pathlib as p, sys, forwardpass.server as s\n"
        "print([m for m in ('torch', 'onnx', 'pip', 'grpc_tools', 'pytest') if u.find_spec(m)])\n"
        "print(p.Path(s.__cached__).exists(), sorted(map(str, p.Path('/src').glob('*'))))"
    )
    assert built(*look, "python", IMAGE, "-c", code).splitlines() == ["[]", "True []"]


def count_threads(process: Path) -> int:
    """The threads but for gRPC's, which have names of their own."""
    # Those that load models and answer probes come and go.
    time.sleep(0.05)
    names = [path.read_text(encoding="ascii") for path in process.glob("task/*/comm")]
    return names.count((process / "comm").read_text(encoding="ascii"))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a quota of two CPUs needs two")
def test_threads_follow_the_cpu_quota(built: Engine, repository: Publisher) -> None:
    """For every model ONNX Runtime adds to its caller's thread as many as fill the quota."""
    repository("clf", classifier())
    repository("emb", embedder())
    threads = {}
    for cpus in (0.5, 1, 2):
        with running(built, readable(repository), cpus=cpus) as container:
            threads[cpus] = min(count_threads(container.process) for _ in range(20))
    assert threads[0.5] == threads[1] == threads[2] - 2, threads


@contextmanager
def under_way(container: Container, steps: int) -> Iterator[Any]:
    """Gives a call that the container's server works on."""
    with grpc.insecure_channel(f"127.0.0.1:{container.port}") as channel:
        request = PredictRequest(
            model=ModelReference(name="busy"), inputs={"steps": to_tensor(np.int64(steps))}
        )
        call: Any = InferenceServiceStub(channel).Predict.future(request, timeout=100)
        in_flight = "\nforwardpass_calls_in_flight 1.0"
        container.wait_until(lambda: in_flight in container.get("/metrics"))
        yield call


# In a container the server is the first process, for which a signal without a handler does nothing
# and which is the parent of whatever loses its own.


def test_sigterm_ends_it_when_idle(built: Engine, repository: Publisher) -> None:
    repository("clf", classifier())
    with running(built, readable(repository)) as container:
        container.terminate()
        assert container.wait() == 0
        assert container.wait_for("stopped")["unfinished"] == 0


def test_sigterm_finishes_what_was_accepted_and_exits_with_0(
    built: Engine, repository: Publisher
) -> None:
    repository("busy", busy())
    with running(built, readable(repository)) as container, under_way(container, 100_000) as call:
        container.terminate()
        assert from_tensor(call.result().outputs["size"]).tolist() == [64, 64]
        assert container.wait() == 0
        assert container.wait_for("draining")["calls"] == 1
        assert container.wait_for("stopped")["unfinished"] == 0


def test_a_call_that_outlasts_the_drain_is_cut_off(built: Engine, repository: Publisher) -> None:
    repository("busy", busy())
    with (
        running(built, readable(repository), drain_seconds=1) as container,
        under_way(container, 100_000_000) as call,
    ):
        container.terminate()
        assert call.exception() is not None
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert container.wait() == 0
        assert container.wait_for("stopped")["unfinished"] == 1


def test_a_second_sigterm_ends_it_at_once(built: Engine, repository: Publisher) -> None:
    repository("busy", busy())
    with (
        running(built, readable(repository)) as container,
        under_way(container, 100_000_000) as call,
    ):
        container.terminate()
        container.wait_for("draining")
        container.terminate()
        assert container.wait() == 128 + signal.SIGTERM
        assert call.exception() is not None


def test_sigterm_ends_it_while_a_graph_is_tried(built: Engine, repository: Publisher) -> None:
    graph = busy().graph
    del graph.graph.input[:]
    graph.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]))
    graph.graph.initializer.append(helper.make_tensor("steps", TensorProto.INT64, [], [2**60]))
    repository("endless", TinyModel(graph))
    with running(built, readable(repository), ready=False) as container:
        container.wait_for("listening")
        container.wait_until(container.has_children)
        container.terminate()
        assert container.wait() == 0
        assert container.log()[-1]["event"] == "stopped"


@contextmanager
def played(engine: Engine, manifests: Manifests, file: Path, *more: Any) -> Iterator[Container]:
    """Has Podman play the rendered Deployment; image, ports and network are this machine's.

    Args:
        engine: Has the image.
        manifests: What is rendered.
        file: Where it is written as Podman gets it.
        more: Volumes instead of those of their names.
    """
    port, metrics_port = free_port(), free_port()
    settings, deployment = json.loads(
        json.dumps([manifests.get("ConfigMap"), manifests.get("Deployment")])
    )
    settings["data"] |= {
        "FORWARDPASS_PORT": str(port),
        "FORWARDPASS_METRICS_PORT": str(metrics_port),
    }
    deployment["spec"]["replicas"] = 1
    pod = deployment["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    (server,) = pod["containers"]
    server["image"] = IMAGE
    # On the host's network there are none to map.
    del server["ports"]
    # Podman would ask by curl, which the image does not have; the probes have a test of their own.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del server[probe]
    volumes = {volume["name"]: volume for volume in (*pod["volumes"], *more)}
    pod["volumes"] = list(volumes.values())
    file.write_text("\n---\n".join(map(json.dumps, (settings, deployment))))
    engine("podman", "play", "kube", str(file))
    try:
        names = engine("podman", "ps", "--format", "{{.Names}}").split()
        (name,) = [name for name in names if name.endswith("-server")]
        container = Container(engine, name, port, metrics_port)
        container.wait_until(container.is_ready)
        yield container
    finally:
        engine("podman", "play", "kube", "--down", str(file))


def test_the_deployment_runs_as_written(
    built: Engine, manifests: Manifests, repository: Publisher, tmp_path: Path
) -> None:
    repository("clf", classifier())
    folder = {"path": str(readable(repository)), "type": "Directory"}
    models = {"name": "models", "hostPath": folder}
    with played(built, manifests, tmp_path / "deployment.yaml", models) as container:
        check_classifier(container.port)
        status = container.status()
        assert status["Uid"].split() == ["10001"] * 4
        assert int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert not container.runs("touch", "/x")
        assert not container.runs("touch", "/models/x")
        assert container.inspect("{{.HostConfig.Memory}}") == str(1 << 30)
        container.terminate()
        container.wait_for("stopped")


def test_a_pod_copies_its_models_out_of_an_image(
    built: Engine, find_tool: FindTool, repository: Publisher, tmp_path: Path
) -> None:
    """The image of models is built as the README says, with the test's base in busybox's place."""
    repository("clf", classifier())
    file = DOCKERFILE.with_name("models.Dockerfile")
    (busybox,) = re.findall(r"^FROM (\S+) AS init$", file.read_text("utf-8"), re.MULTILINE)
    built("podman", "tag", BASE_IMAGE, busybox)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    manifests = compose(find_tool("kubectl"), overlay, "models-from-oci-init")
    built(
        *("buildah", "bud", "--isolation=chroot", "--pull-never", "--target=init"),
        *(f"--tag=localhost/{manifests.init_container['image']}", "--file", str(file)),
        str(readable(repository)),
    )
    with played(built, manifests, tmp_path / "deployment.yaml") as container:
        check_classifier(container.port)
        assert not container.runs("touch", "/models/x")


def test_compose_runs_the_server(
    built: Engine, find_tool: FindTool, repository: Publisher, tmp_path: Path
) -> None:
    repository("clf", classifier())
    port, metrics_port = free_port(), free_port()
    # The host's network, as above; there are then no ports to publish.
    server = {
        "image": IMAGE,
        "network_mode": "host",
        "environment": {
            "FORWARDPASS_PORT": port,
            "FORWARDPASS_METRICS_PORT": metrics_port,
        },
    }
    override = tmp_path / "override.yaml"
    override.write_text(json.dumps({"services": {"server": server}}))
    files = (str(ROOT / "deploy/compose/compose.yaml"), str(override))
    command = (
        *("env", f"MODELS={readable(repository)}", find_tool("podman-compose")),
        *(part for file in files for part in ("-f", file)),
    )
    built(*command, "up", "--detach", "--no-build", "server")
    try:
        (name,) = built("podman", "ps", "--format", "{{.Names}}").split()
        container = Container(built, name, port, metrics_port)
        container.wait_until(container.is_ready)
        check_classifier(port)
        assert container.inspect("{{.HostConfig.Memory}}") == str(1 << 30)
        assert not container.runs("touch", "/x")
        assert not container.runs("touch", "/models/x")
        container.terminate()
        container.wait_for("stopped")
    finally:
        built(*command, "down")
