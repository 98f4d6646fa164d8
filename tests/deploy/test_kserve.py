"""The runtime for KServe, compared with the base; tests/kserve asks the SDK for its kinds."""

from typing import Any

import pytest

from .conftest import FindTool
from .sources import KUSTOMIZE, Manifests, render


@pytest.fixture(scope="module")
def kserve(find_tool: FindTool) -> Manifests:
    return render(find_tool("kubectl"), KUSTOMIZE / "kserve")


@pytest.fixture(scope="module")
def container(kserve: Manifests) -> dict[str, Any]:
    (only,) = kserve.get("ServingRuntime")["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def test_its_container_is_that_of_the_base(container: dict[str, Any], manifests: Manifests) -> None:
    base = manifests.container
    for key in ("image", "lifecycle", "resources"):
        assert container[key] == base[key], key
    assert {entry["name"]: entry["value"] for entry in container["env"]} == manifests.settings
    (grpc,) = container["ports"]
    ports = {port["name"]: port["containerPort"] for port in base["ports"]}
    assert grpc["containerPort"] == ports["grpc"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = {**base[name], "httpGet": {**base[name]["httpGet"], "port": ports["metrics"]}}
        assert container[name] == probe, name
    # KServe makes the pod, so what the base says of it stands here.
    pod = manifests.pod["securityContext"]
    assert container["securityContext"] == {**base["securityContext"], **pod}


def test_its_service_is_served_by_the_runtime(kserve: Manifests, manifests: Manifests) -> None:
    runtime, service = kserve.get("ServingRuntime"), kserve.get("InferenceService")
    predictor = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
    assert predictor["model"]["modelFormat"]["name"] in formats
    claim = manifests.get("PersistentVolumeClaim")["metadata"]["name"]
    assert predictor["model"]["storageUri"] == f"pvc://{claim}"
    for key in ("terminationGracePeriodSeconds", "enableServiceLinks"):
        assert predictor[key] == manifests.pod[key], key


def test_it_serves_what_kserve_mounts(container: dict[str, Any]) -> None:
    assert container["command"] == ["forwardpass-serve", "/mnt/models"]
