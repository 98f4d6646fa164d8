"""The compose file: valid to the Compose specification, and the same server as the base's."""

import re
import subprocess
from typing import Any

import pytest

from forwardpass.server.settings import Settings

from .conftest import FindTool
from .sources import BASE, ROOT, Manifests

FILE = ROOT / "deploy/compose/compose.yaml"


@pytest.fixture(scope="module")
def text() -> str:
    """The file, with a folder in the place of its one variable."""
    written = FILE.read_text(encoding="utf-8")
    replaced, count = re.subn(r"\$\{MODELS:\?[^}]+\}", "/srv/models", written)
    assert count == 1
    return replaced


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Any]:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_compose_takes_the_file(text: str) -> None:
    compose_spec: Any = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    compose_spec.PyCompose.from_yaml(text).to_spec()
    for right, wrong, told in (
        ("read_only: true", "readonly: true", "readonly"),
        ("stop_grace_period: 40s", "stop_grace_period: soon", "stop_grace_period"),
        ("127.0.0.1:8001:8001", "127.0.0.1:grpc:8001", r"ports\[0\]"),
    ):
        with pytest.raises(ValueError, match=told):
            compose_spec.PyCompose.from_yaml(text.replace(right, wrong))


def test_the_server_is_that_of_the_base(services: dict[str, Any], manifests: Manifests) -> None:
    server = services["server"]
    assert (FILE.parent / server["env_file"]).resolve() == BASE / "settings.env"
    assert server["image"] == manifests.container["image"]
    assert (FILE.parent / server["build"]["context"]).resolve() == ROOT
    assert (ROOT / server["build"]["dockerfile"]).is_file()
    limits = manifests.container["resources"]["limits"]
    assert server["cpus"] == float(limits["cpu"])
    assert f"{server['mem_limit']}i".upper() == limits["memory"].upper()
    drain = int(manifests.settings["FORWARDPASS_DRAIN_SECONDS"])
    assert server["stop_grace_period"] == f"{drain + 10}s"
    size = manifests.volumes["tmp"]["emptyDir"]["sizeLimit"].removesuffix("Mi")
    assert server["tmpfs"] == [f"/tmp:size={size}m,mode=1777"]


def test_both_are_confined_and_on_loopback(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_prometheus_scrapes_the_server(find_tool: FindTool, services: dict[str, Any]) -> None:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    file = FILE.parent / "prometheus.yml"
    assert f"./{file.name}" in services["prometheus"]["volumes"][0]
    (job,) = yaml.safe_load(file.read_text(encoding="utf-8"))["scrape_configs"]
    port = Settings.model_fields["metrics_port"].default
    # The name of a service is its host's; /metrics is where Prometheus looks unless told otherwise.
    assert job["static_configs"] == [{"targets": [f"server:{port}"]}]
    promtool = find_tool("promtool")
    checked = [promtool, "check", "config", str(file)]
    ended = subprocess.run(checked, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
