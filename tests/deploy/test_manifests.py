"""The manifests: valid to Kubernetes, and in agreement with the server and the image."""

import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from conftest import StartServer
from tiny_models import Publisher, classifier

from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.settings_sources import load

from .schemas import NEWEST, OLDEST, check
from .sources import ROOT, Image, Manifests

PROBE_PATHS = {"startup": "/startedz", "readiness": "/readyz", "liveness": "/livez"}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_document(manifests: Manifests, version: str) -> None:
    for document in manifests.documents:
        check(document, version)


def test_what_kubernetes_would_refuse_is_found(manifests: Manifests) -> None:
    deployment = manifests.get("Deployment")
    with pytest.raises(ValueError, match="sleep"):
        check(deployment, "1.28")
    misspelt = {**deployment, "spec": {**deployment["spec"], "replcias": 2}}
    with pytest.raises(ValueError, match="replcias"):
        check(misspelt, NEWEST)
    with pytest.raises(ValueError, match="extensions"):
        check({**deployment, "apiVersion": "extensions/v1beta1"}, NEWEST)


def test_the_server_has_the_settings_that_the_pod_gets(
    manifests: Manifests, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = manifests.container["envFrom"]
    assert source["configMapRef"]["name"] == manifests.get("ConfigMap")["metadata"]["name"]
    for name, value in {**image.environment, **manifests.settings}.items():
        if name != "PATH":
            monkeypatch.setenv(name, value)
    settings = load(["/models"])
    for name, value in manifests.settings.items():
        assert getattr(settings, name.removeprefix("FORWARDPASS_").lower()) == float(value)
    assert settings.host == "0.0.0.0"


def test_service_links_would_keep_the_server_from_starting(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert manifests.pod["enableServiceLinks"] is False
    monkeypatch.setenv("FORWARDPASS_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(SettingsError, match="FORWARDPASS_SERVICE_HOST"):
        load(["/models"])


def test_the_drain_fits_into_the_grace_period(manifests: Manifests) -> None:
    pause = manifests.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(manifests.settings["FORWARDPASS_DRAIN_SECONDS"])
    assert manifests.pod["terminationGracePeriodSeconds"] == pause + drain + 10


def test_probes_ask_what_the_server_answers(
    manifests: Manifests, repository: Publisher, start_server: StartServer
) -> None:
    repository("clf", classifier())
    url = start_server().metrics_url
    probes = {name: manifests.container[f"{name}Probe"] for name in PROBE_PATHS}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == PROBE_PATHS
    for path in PROBE_PATHS.values():
        with urllib.request.urlopen(url + path, timeout=30) as response:
            assert response.status == 200
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"metrics"}
    startup = probes["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_ports_are_the_servers(manifests: Manifests) -> None:
    ports = {port["name"]: port["containerPort"] for port in manifests.container["ports"]}
    defaults = Settings.model_fields
    assert ports == {"grpc": defaults["port"].default, "metrics": defaults["metrics_port"].default}
    assert not {"FORWARDPASS_PORT", "FORWARDPASS_METRICS_PORT"} & manifests.settings.keys()
    services = manifests.all("Service")
    assert {service["spec"].get("clusterIP") for service in services} == {None, "None"}
    for service in services:
        (port,) = service["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (ports["grpc"], "grpc")
        assert port["appProtocol"] == "kubernetes.io/h2c"
    policy = manifests.get("NetworkPolicy")["spec"]
    assert [rule["ports"] for rule in policy["ingress"]] == [
        [{"port": "grpc"}],
        [{"port": "metrics"}],
    ]
    assert policy["egress"] == []


def test_every_selector_means_the_pods(manifests: Manifests) -> None:
    labels = manifests.template["metadata"]["labels"]
    found = list(selectors(manifests))
    assert len(found) == 6
    for selector in found:
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
        assert selector.items() <= labels.items()


def selectors(manifests: Manifests) -> Iterator[dict[str, str]]:
    for kind in ("Deployment", "PodDisruptionBudget"):
        yield manifests.get(kind)["spec"]["selector"]["matchLabels"]
    for service in manifests.all("Service"):
        yield service["spec"]["selector"]
    yield manifests.get("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    (spread,) = manifests.pod["topologySpreadConstraints"]
    yield spread["labelSelector"]["matchLabels"]


def test_the_restricted_profile_holds(manifests: Manifests, image: Image) -> None:
    user, group = map(int, image.only("USER").split(":"))
    assert manifests.pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert manifests.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    account = manifests.get("ServiceAccount")
    assert manifests.pod["serviceAccountName"] == account["metadata"]["name"]
    assert manifests.pod["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False


def test_models_are_read_only_and_the_rest_is_bounded(manifests: Manifests) -> None:
    volumes = {volume["name"]: volume for volume in manifests.pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in manifests.container["volumeMounts"]}
    assert mounts.keys() == {"/models", "/tmp"}
    assert mounts["/models"]["readOnly"] is True
    claim = volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]
    assert claim["readOnly"] is True
    assert claim["claimName"] == manifests.get("PersistentVolumeClaim")["metadata"]["name"]
    assert volumes[mounts["/tmp"]["name"]]["emptyDir"]["sizeLimit"]
    resources = manifests.container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"].keys() == {"cpu", "memory"}


def test_what_is_found_out_outlives_a_container(manifests: Manifests, image: Image) -> None:
    folder = PurePosixPath(image.environment["FORWARDPASS_CACHE_DIR"])
    mounts = {mount["mountPath"]: mount for mount in manifests.container["volumeMounts"]}
    # The volume itself may be written to by anybody; a folder in it is made by the server.
    mount = mounts[str(folder.parent)]
    assert not mount.get("readOnly")
    volumes = {volume["name"]: volume for volume in manifests.pod["volumes"]}
    assert "emptyDir" in volumes[mount["name"]]


def test_a_rollout_never_takes_a_ready_pod_first(manifests: Manifests) -> None:
    spec = manifests.get("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["replicas"] >= 2
    assert manifests.get("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_image_is_of_this_version(manifests: Manifests) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifests.container["image"] == f"forwardpass:{project['version']}"
