"""The route of the Gateway API: valid to its schema, and to the pods."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import FindTool
from .sources import Manifests, compose

# Its schemas, as programs that say what is wrong; those of PyPI know none.
PACKAGE = "@kubernetes-models/gateway-api@2.0.0"
PROGRAM = """
import { GRPCRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GRPCRoute";
new GRPCRoute(JSON.parse(process.argv[2])).validate();
"""


@pytest.fixture(scope="module")
def route_check(pytestconfig: pytest.Config) -> Path:
    """A folder in which `node check.mjs ROUTE` fails where a route is wrong; kept in the cache."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which comes with Node.js, is not installed")
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir("gateway-api-2.0.0")
    if not (kept / "made").exists():
        (kept / "package.json").write_text('{"type": "module"}', encoding="utf-8")
        install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
        ended = subprocess.run(
            install, cwd=kept, capture_output=True, text=True, timeout=300, check=False
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
            pytest.skip(f"npm cannot install the Gateway API's schemas; it said: {last}")
        (kept / "made").touch()
    (kept / "check.mjs").write_text(PROGRAM, encoding="utf-8")
    return kept


@pytest.fixture
def manifests(find_tool: FindTool, tmp_path: Path) -> Manifests:
    return compose(find_tool("kubectl"), tmp_path, "gateway")


def complaint(folder: Path, route: dict[str, Any]) -> str:
    """Returns what is wrong with a route; empty where nothing is."""
    ended = subprocess.run(
        ["node", "check.mjs", json.dumps(route)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.stderr if ended.returncode else ""


def test_the_gateway_api_takes_the_route(route_check: Path, manifests: Manifests) -> None:
    route = manifests.get("GRPCRoute")
    assert complaint(route_check, route) == ""
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    for wrong in ({**backend, "port": "grpc"}, {**backend, "port": 80_000}, {"port": 8001}):
        spec = {**route["spec"], "rules": [{"backendRefs": [wrong]}]}
        assert "/spec/rules/0/backendRefs/0" in complaint(route_check, {**route, "spec": spec})


def test_the_route_leads_to_the_service_and_the_gateway_may_come_in(manifests: Manifests) -> None:
    spec = manifests.get("GRPCRoute")["spec"]
    (parent,) = spec["parentRefs"]
    (backend,) = spec["rules"][0]["backendRefs"]
    services = {document["metadata"]["name"]: document for document in manifests.all("Service")}
    service = services[backend["name"]]["spec"]
    # The headless Service has no address of its own to balance behind.
    assert "clusterIP" not in service
    assert service["ports"][0]["port"] == backend["port"]
    rules = manifests.get("NetworkPolicy")["spec"]["ingress"]
    # What the base lets in stays.
    assert len(rules) == 3
    (source,) = rules[-1]["from"]
    labels = source["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": parent["namespace"]}
    assert rules[-1]["ports"] == [{"port": "grpc"}]
