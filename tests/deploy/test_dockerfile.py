"""The Dockerfile, as far as it can be told without building it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from certificates import Authority
from conftest import StartServer
from tiny_models import Publisher, classifier

from forwardpass.server.settings_sources import load

from .conftest import FindTool
from .sources import DOCKERFILE, ROOT, Image


def test_hadolint_finds_nothing(find_tool: FindTool) -> None:
    files = (DOCKERFILE, DOCKERFILE.with_name("models.Dockerfile"))
    result = subprocess.run(
        [find_tool("hadolint"), "--no-color", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_is_started_with_settings_that_the_server_has(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in image.environment.items():
        if name != "PATH":
            monkeypatch.setenv(name, value)
    command, *arguments = json.loads(image.only("ENTRYPOINT"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"][command] == "forwardpass.server.cli:main"
    settings = load(arguments)
    assert (settings.host, settings.metrics_host) == ("0.0.0.0", "0.0.0.0")
    assert image.only("EXPOSE").split() == [str(settings.port), str(settings.metrics_port)]


def test_nothing_runs_as_root_or_phones_home(image: Image) -> None:
    assert image.only("USER") == "10001:10001"
    assert image.environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert image.only("STOPSIGNAL") == "SIGTERM"
    assert "RUN" not in {name for name, _ in image.instructions}


@pytest.mark.parametrize("by_tls", [False, True])
def test_the_health_check_tells_ready_from_not(
    image: Image, repository: Publisher, start_server: StartServer, tmp_path: Path, *, by_tls: bool
) -> None:
    repository("clf", classifier())
    certificate, key = Authority().issue().write(tmp_path)
    files = {"tls_certificate": certificate, "tls_key": key}
    server = start_server(**files, metrics_tls=by_tls).server
    python, *arguments = json.loads(image.only("HEALTHCHECK").partition(" CMD ")[2])
    assert python == "python"

    def check(port: int) -> int:
        environment = {
            **os.environ,
            "FORWARDPASS_METRICS_PORT": str(port),
            "FORWARDPASS_METRICS_TLS": str(by_tls),
            "http_proxy": "http://127.0.0.1:1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    assert check(server.metrics_port) == 0
    server.readiness.drain()
    assert check(server.metrics_port) == 1
    assert check(1) == 1


def test_the_build_gets_every_part_of_the_wheel_and_the_locks_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "pyproject.toml",
        "README.md",
        "deploy/docker/*.lock",
        *project["project"]["license-files"],
        project["tool"]["hatch"]["build"]["hooks"]["custom"]["path"],
        *wheel["sources"],
    }
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")
    lines = [line for line in ignored.splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == needed
