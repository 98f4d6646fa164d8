"""The components and overlays: valid to who takes them, and servers run with what they set."""

import os
import re
import shutil
import ssl
import subprocess
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from certificates import Authority, Pair
from conftest import StartServer
from cryptography import x509
from tiny_models import Publisher, classifier

from forwardpass.client import AccessDenied, Client, Tls
from forwardpass.server.app import Server
from forwardpass.server.settings import SettingsError
from forwardpass.server.settings_sources import load

from .conftest import FindTool
from .schemas import NEWEST, OLDEST, check
from .sources import COMPONENTS, KUSTOMIZE, ROOT, Image, Manifests, compose, render

NAMES = sorted(path.name for path in COMPONENTS.iterdir())
# Components whose names begin with the same word stand in place of one another.
_KINDS = Counter(name.partition("-")[0] for name in NAMES)
ALTERNATIVES = [name for name in NAMES if _KINDS[name.partition("-")[0]] > 1]
OTHERS = [name for name in NAMES if name not in ALTERNATIVES]
OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
# The first version that knows volumes of images.
IMAGE_VOLUMES = "1.31"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

Compose = Callable[..., Manifests]


@pytest.fixture
def composed(find_tool: FindTool, tmp_path: Path) -> Compose:
    """Renders the base with components."""
    folder = tmp_path / "overlay"
    folder.mkdir()
    return lambda *names: compose(find_tool("kubectl"), folder, *names)


def check_all(manifests: Manifests, oldest: str = OLDEST) -> None:
    for document in manifests.documents:
        # Its schema is npm's: test_gateway.py.
        if document["kind"] != "GRPCRoute":
            for version in (oldest, NEWEST):
                check(document, version)


def is_restricted(pod: Mapping[str, Any]) -> bool:
    """Whether a pod keeps to Kubernetes' profile of that name, and has limits and a fixed root."""
    security = pod["securityContext"]
    containers = [*pod["containers"], *pod.get("initContainers", [])]
    return (
        security["runAsNonRoot"] is True
        and security["seccompProfile"] == {"type": "RuntimeDefault"}
        and pod["automountServiceAccountToken"] is False
        and all(
            container["securityContext"] == {**RESTRICTED, "readOnlyRootFilesystem": True}
            and container["resources"]["limits"].keys() >= {"cpu", "memory"}
            for container in containers
        )
    )


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_every_alternative_goes_with_all_others(composed: Compose, name: str) -> None:
    manifests = composed(name, *OTHERS)
    check_all(manifests, IMAGE_VOLUMES if name == "models-from-oci" else OLDEST)
    assert all(map(is_restricted, manifests.pods))
    assert {"models", "tmp", "tls", "tokens"} <= manifests.volumes.keys()
    # Models come from one place: the base's claim is there only where they come from it.
    (kind,) = manifests.volumes["models"].keys() - {"name"}
    claims = manifests.all("PersistentVolumeClaim")
    assert (kind == "persistentVolumeClaim") == bool(claims)


@pytest.mark.parametrize("name", OTHERS)
def test_a_component_goes_with_the_base_alone(composed: Compose, name: str) -> None:
    check_all(composed(name))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid(find_tool: FindTool, name: str) -> None:
    manifests = render(find_tool("kubectl"), KUSTOMIZE / "overlays" / name)
    check_all(manifests)
    assert all(map(is_restricted, manifests.pods))
    named = manifests.all("Namespace")
    (namespace,) = {
        document["metadata"]["namespace"]
        for document in manifests.documents
        if document not in named
    }
    for document in named:
        assert document["metadata"]["name"] == namespace
        labels = document["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_custom_kinds_do_not_know_is_found(composed: Compose) -> None:
    manifests = composed("tls", "monitoring")
    certificate = manifests.all("Certificate")[0]
    misspelt = {**certificate, "spec": {**certificate["spec"], "secretname": "x"}}
    with pytest.raises(ValueError, match="secretname"):
        check(misspelt, NEWEST)
    monitor = manifests.get("PodMonitor")
    without = {**monitor, "spec": {"podMetricsEndpoints": []}}
    with pytest.raises(ValueError, match="selector"):
        check(without, NEWEST)


def test_the_overlay_in_the_readme_works(find_tool: FindTool, tmp_path: Path) -> None:
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(
        text.replace("../..", os.path.relpath(KUSTOMIZE, tmp_path))
    )
    manifests = render(find_tool("kubectl"), tmp_path)
    check_all(manifests, IMAGE_VOLUMES)
    assert manifests.container["image"].startswith("registry.example.org/forwardpass@sha256:")
    image = manifests.volumes["models"]["image"]
    assert image["reference"] == "registry.example.org/models:2026-11"
    assert manifests.settings["FORWARDPASS_LOG_LEVEL"] == "debug"


def test_the_readme_has_a_line_for_each_component() -> None:
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", readme, re.MULTILINE)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_server_has_the_settings_of_a_component(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in composed(name).settings.items():
        monkeypatch.setenv(variable, value)
    load(["/models"])


def mount(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts files into a folder as the kubelet those of a Secret: all of them change at once."""
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(mkdtemp(prefix="..", dir=folder))
    for name, content in files.items():
        (home / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(home.name)
    (folder / "..data_tmp").rename(folder / "..data")


def mount_pair(folder: Path, pair: Pair) -> None:
    mount(folder, {"tls.crt": pair.certificate, "tls.key": pair.key})


def mount_token(folder: Path, token: str) -> None:
    digest = sha256(token.encode()).hexdigest()
    entry = f'[[tokens]]\nname = "me"\nsha256 = "{digest}"\npermissions = ["read"]\n'
    mount(folder, {"tokens.toml": entry.encode()})


def serial_shown(address: str) -> int:
    url = urllib.parse.urlsplit(f"//{address}")
    shown = ssl.get_server_certificate((str(url.hostname), int(url.port or 0)), timeout=30)
    return x509.load_pem_x509_certificate(shown.encode()).serial_number


def wait_until(holds: Callable[[], bool]) -> None:
    """Asks until it holds: the server looks at its files once a second."""
    assert any(holds() for _ in range(100_000))


def test_a_new_certificate_and_a_new_token_restart_no_pod(
    composed: Compose, repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    manifests = composed("tls", "tokens")
    mounts = {mount["name"]: mount for mount in manifests.container["volumeMounts"]}
    for name in ("tls", "tokens"):
        # It would never change.
        assert "subPath" not in mounts[name]
    # Where the volumes would be mounted.
    run = tmp_path / "run"
    paths = {
        name.removeprefix("FORWARDPASS_").lower(): tmp_path / value.lstrip("/")
        for name, value in manifests.settings.items()
        if value.startswith("/run/")
    }
    assert {path.parent for path in paths.values()} == {
        tmp_path / mounts[name]["mountPath"].lstrip("/") for name in ("tls", "tokens")
    }
    authority = Authority()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.certificate)
    mount_pair(run / "tls", authority.issue())
    mount_token(run / "tokens", "the-first-token")
    repository("clf", classifier())
    address = start_server(**paths).address

    def is_let_in(token: str) -> bool:
        try:
            with Client(address, tls=Tls(ca=ca, name="localhost"), token=token) as client:
                return [model.name for model in client.models()] == ["clf"]
        except AccessDenied:
            return False

    assert is_let_in("the-first-token")
    assert not is_let_in("the-second-token")
    renewed = authority.issue()
    mount_pair(run / "tls", renewed)
    mount_token(run / "tokens", "the-second-token")
    wait_until(lambda: serial_shown(address) == renewed.serial)
    wait_until(lambda: is_let_in("the-second-token"))
    assert not is_let_in("the-first-token")


def test_tokens_without_tls_keep_a_pod_from_starting(
    composed: Compose, image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mount_token(tmp_path / "run/tokens", "a-token")
    for variable, value in {**image.environment, **composed("tokens").settings}.items():
        if variable.startswith("FORWARDPASS_"):
            monkeypatch.setenv(variable, value.replace("/run/", f"{tmp_path}/run/"))
    with pytest.raises(SettingsError, match=r"others could read the tokens, .*--tls-certificate"):
        Server(load([str(tmp_path)]))


def test_a_certificate_is_for_the_names_that_callers_dial(composed: Compose) -> None:
    manifests = composed("tls")
    by_name = {document["metadata"]["name"]: document for document in manifests.all("Certificate")}
    certificate = by_name["forwardpass"]["spec"]
    services = manifests.all("Service")
    assert {service["metadata"]["name"] for service in services} == {*certificate["dnsNames"]}
    assert certificate["secretName"] == manifests.volumes["tls"]["secret"]["secretName"]
    # What the server takes: README.md of the server.
    assert certificate["privateKey"]["algorithm"] == "ECDSA"
    assert certificate["privateKey"]["size"] in {256, 384, 521}
    issuers = {document["metadata"]["name"]: document for document in manifests.all("Issuer")}
    ca = by_name["forwardpass-ca"]["spec"]
    assert issuers[certificate["issuerRef"]["name"]]["spec"]["ca"]["secretName"] == ca["secretName"]
    assert "selfSigned" in issuers[ca["issuerRef"]["name"]]["spec"]
    # The base's would have proxies speak HTTP/2 in clear.
    assert {service["spec"]["ports"][0]["appProtocol"] for service in services} == {"https"}


def test_the_monitor_scrapes_the_pods(composed: Compose) -> None:
    manifests = composed("monitoring")
    spec = manifests.get("PodMonitor")["spec"]
    labels = manifests.template["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = spec["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")


def test_a_gpu_belongs_to_each_pod(composed: Compose) -> None:
    manifests = composed("gpu")
    assert manifests.container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert manifests.container["image"].startswith("forwardpass-cuda:")
    assert manifests.settings["FORWARDPASS_PROVIDERS"] == "cuda,cpu"
    # What the base sets stays.
    assert manifests.settings["FORWARDPASS_MAX_MESSAGE_BYTES"] == "8388608"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_here(container: Mapping[str, Any], program: str, places: Mapping[str, str]) -> None:
    """Runs a container's command with a program and folders of this machine."""
    variables = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    name, *arguments = (
        re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], argument)
        for argument in container["command"]
    )
    assert Path(program).name == name
    command = [program, *(places.get(argument, argument) for argument in arguments)]
    subprocess.run(command, check=True, timeout=60)


def test_models_are_copied_out_of_an_image(
    composed: Compose, repository: Publisher, tmp_path: Path
) -> None:
    repository("clf", classifier())
    manifests = composed("models-from-oci-init")
    container = manifests.init_container
    (volume,) = container["volumeMounts"]
    assert "emptyDir" in manifests.volumes[volume["name"]]
    dockerfile = (ROOT / "deploy/docker/models.Dockerfile").read_text(encoding="utf-8")
    assert "COPY . /models/" in dockerfile.partition(" AS init")[2]
    (tmp_path / "copy").mkdir()
    places = {"/models/.": f"{repository.root}/.", volume["mountPath"]: f"{tmp_path}/copy"}
    run_here(container, "/bin/cp", places)
    assert tree(tmp_path / "copy") == tree(repository.root)


def test_models_are_fetched_from_a_bucket(
    composed: Compose, find_tool: FindTool, repository: Publisher, tmp_path: Path
) -> None:
    repository("clf", classifier())
    rclone = find_tool("rclone")
    manifests = composed("models-from-bucket")
    container = manifests.init_container
    source = {entry["name"]: entry["value"] for entry in container["env"]}["SOURCE"]
    bucket = tmp_path / "bucket"
    shutil.copytree(repository.root, bucket / source.removeprefix("models:"))
    # As the Secret has it, for a folder instead of a bucket.
    settings = tmp_path / "rclone.conf"
    settings.write_text(f"[models]\ntype = alias\nremote = {bucket}\n", encoding="utf-8")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert "emptyDir" in manifests.volumes["models"]
    assert "secret" in manifests.volumes["source"]
    places = {
        mounts["models"]: f"{tmp_path}/fetched",
        f"--config={mounts['source']}/rclone.conf": f"--config={settings}",
    }
    run_here(container, rclone, places)
    assert tree(tmp_path / "fetched") == tree(repository.root)
    # Names are looked up, and the store called.
    ports = {
        port["port"]
        for rule in manifests.get("NetworkPolicy")["spec"]["egress"]
        for port in rule["ports"]
    }
    assert ports == {53, 443}


def test_models_that_are_put_into_the_volume_are_taken_up(
    composed: Compose, repository: Publisher, start_server: StartServer, tmp_path: Path
) -> None:
    """The volume is empty at first; what the README puts there is served without a restart."""
    settings = composed("models-from-pvc").settings
    assert settings["FORWARDPASS_WATCH"] == "true"
    readiness = start_server(watch=True).server.readiness
    assert not readiness.ready
    is_ready = threading.Event()
    readiness.watch(lambda: is_ready.set() if readiness.ready else None)
    published = Publisher(tmp_path / "published")
    published("clf", classifier())
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    (pack,) = re.findall(
        r"^\$ (tar -C) demo/models (--sort=name -c \.) \| .*", readme, re.MULTILINE
    )
    packed = subprocess.run(
        [*pack[0].split(), str(published.root), *pack[1].split()], capture_output=True, check=True
    )
    unpack = ["tar", "-C", str(repository.root), "-x"]
    subprocess.run(unpack, input=packed.stdout, check=True)
    assert is_ready.wait(60)


def test_the_pod_that_fills_the_volume_is_none_of_the_servers(
    find_tool: FindTool, manifests: Manifests
) -> None:
    upload = render(find_tool("kubectl"), KUSTOMIZE / "upload")
    check_all(upload)
    (pod,) = upload.pods
    assert is_restricted(pod)
    claim = pod["volumes"][0]["persistentVolumeClaim"]
    assert claim == {"claimName": manifests.get("PersistentVolumeClaim")["metadata"]["name"]}
    assert not pod["containers"][0]["volumeMounts"][0].get("readOnly")
    labels = upload.get("Pod")["metadata"]["labels"]
    selector = manifests.all("Service")[0]["spec"]["selector"]
    assert not selector.items() <= labels.items()
    assert pod["containers"][0]["image"] == manifests.container["image"]


@pytest.mark.parametrize("name", ["models-from-oci", "models-from-oci-init"])
def test_images_of_models_can_be_renamed(find_tool: FindTool, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "overlay"
    folder.mkdir()
    compose(find_tool("kubectl"), folder, name)
    with (folder / "kustomization.yaml").open("a", encoding="utf-8") as file:
        file.write("\nimages:\n")
        for image in ("forwardpass-models", "forwardpass-models-init"):
            file.write(f"- {{name: {image}, newName: registry.example.org/x, newTag: v2}}\n")
    manifests = render(find_tool("kubectl"), folder)
    if name == "models-from-oci":
        assert manifests.volumes["models"]["image"]["reference"] == "registry.example.org/x:v2"
    else:
        assert manifests.init_container["image"] == "registry.example.org/x:v2"
