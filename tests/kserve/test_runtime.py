"""The runtime and its service in deploy/, as the KServe SDK's models have them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deploy.sources import KUSTOMIZE, render

PROGRAM = Path(__file__).with_name("unknown.py")
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def unknown(python: Path, *manifests: dict[str, Any]) -> list[str]:
    """Returns where manifests have what KServe does not know."""
    ended = subprocess.run(
        [str(python), "-I", str(PROGRAM)],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_kserve_knows_all_of_the_runtime_and_its_service(sdk_python: Path) -> None:
    kubectl = Path(sys.executable).with_name("kubectl")
    manifests = render(str(kubectl), KUSTOMIZE / "kserve")
    assert unknown(sdk_python, *manifests.documents) == []
    service = manifests.get("InferenceService")
    predictor = service["spec"]["predictor"]
    misspelt = {**service, "spec": {"predictor": {**predictor, "minReplica": 2}}}
    assert unknown(sdk_python, misspelt) == ["InferenceService.spec.predictor.minReplica"]
    text = {**service, "spec": {"predictor": {**predictor, "minReplicas": "2"}}}
    assert unknown(sdk_python, text) == ["InferenceService.spec.predictor.minReplicas"]
