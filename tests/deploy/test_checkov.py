"""checkov, in an environment of its own, finds nothing that is not explained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import FindTool
from .sources import COMPONENTS, KUSTOMIZE, compose

CHECKOV = "checkov==3.3.30"
SETTINGS = KUSTOMIZE / ".checkov.yaml"
FOLDERS = ("base", "overlays/cpu", "overlays/gpu", "embed-job", "upload", "kserve")
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def checkov(pytestconfig: pytest.Config) -> Path:
    """The program, of an environment that is made once and kept in pytest's cache."""
    assert pytestconfig.cache is not None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = pytestconfig.cache.mkdir(f"environment-{CHECKOV.replace('==', '-')}-python-{version}")
    if not (kept / "made").exists():
        # What an interrupted attempt has left is no environment.
        shutil.rmtree(kept)
        subprocess.run([sys.executable, "-m", "venv", str(kept)], check=True)
        install = [str(kept / "bin" / "python"), "-m", "pip", "install", "--quiet", CHECKOV]
        result = subprocess.run(install, capture_output=True, text=True, check=False)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            pytest.skip(f"{CHECKOV} cannot be installed: {last}")
        (kept / "made").touch()
    return kept / "bin" / "checkov"


@pytest.fixture(scope="module")
def rendered(find_tool: FindTool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything: each kustomization, and the base with each component."""
    kubectl = find_tool("kubectl")
    folder = tmp_path_factory.mktemp("rendered")
    overlays = []
    for component in COMPONENTS.iterdir():
        overlays.append(tmp_path_factory.mktemp(component.name))
        compose(kubectl, overlays[-1], component.name)
    for kustomization in (*(KUSTOMIZE / name for name in FOLDERS), *overlays):
        with (folder / f"{kustomization.name}.yaml").open("w", encoding="utf-8") as file:
            command = [kubectl, "kustomize", str(kustomization)]
            subprocess.run(command, stdout=file, check=True, timeout=60)
    return folder


def found(checkov: Path, rendered: Path, *options: str) -> set[str]:
    """Returns the names of the checks that failed."""
    # Without --skip-download it asks its maker's server for guidelines.
    command = [str(checkov), "-d", str(rendered), "--output", "json", "--skip-download", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    report: Any = json.loads(ended.stdout)
    assert report["summary"]["passed"] > 500, ended.stderr
    return {check["check_id"] for check in report["results"]["failed_checks"]}


def test_checkov_finds_nothing(checkov: Path, rendered: Path) -> None:
    assert found(checkov, rendered, "--config-file", str(SETTINGS)) == set()


def test_what_is_left_out_would_be_found_and_has_its_reason(checkov: Path, rendered: Path) -> None:
    lines = SETTINGS.read_text(encoding="utf-8").splitlines()
    left_out = [number for number, line in enumerate(lines) if line.startswith("  - CKV")]
    assert found(checkov, rendered, "--framework", "kubernetes") == {
        lines[number].removeprefix("  - ") for number in left_out
    }
    for number in left_out:
        above = lines[number - 1]
        assert above.startswith("  # ") or number - 1 in left_out, lines[number]
