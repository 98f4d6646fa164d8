"""The indexed Job that embeds a volume: valid to Kubernetes, and its command does what it says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looking_models import looks
from pyarrow import parquet
from tiny_models import Publisher

from forwardpass.client.commands.exit_code import NOT_FOUND, PARTIAL, USAGE
from forwardpass.pixels import encode_png

from .conftest import FindTool
from .schemas import NEWEST, OLDEST, check
from .sources import ROOT, Manifests, render

FOLDER = ROOT / "deploy" / "kustomize" / "embed-job"


@pytest.fixture(scope="module")
def folder(find_tool: FindTool) -> Manifests:
    return render(find_tool("kubectl"), FOLDER)


@pytest.fixture(scope="module")
def job(folder: Manifests) -> dict[str, Any]:
    return folder.get("Job")


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_it(folder: Manifests, version: str) -> None:
    for document in folder.documents:
        check(document, version)


def test_it_calls_nobody(folder: Manifests, job: dict[str, Any]) -> None:
    policy = folder.get("NetworkPolicy")["spec"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert (policy["ingress"], policy["egress"]) == ([], [])


def test_what_would_fail_again_ends_the_job(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [USAGE, NOT_FOUND]
    assert rule["onExitCodes"]["containerName"] == container(job)["name"]


def test_its_image_is_of_this_version_and_restricted(job: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert container(job)["image"] == f"forwardpass-embed:{project['version']}"
    security = container(job)["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_its_parts_make_the_whole(
    job: dict[str, Any], repository: Publisher, tmp_path: Path
) -> None:
    """Each index runs the container's own command, on folders in the places of its volumes."""
    repository("resnet50-imagenet", looks())
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(20):
        picture = encode_png(rng.integers(0, 256, (8, 9, 3), np.uint8))
        (tmp_path / "data" / f"{number}.png").write_bytes(picture)
    (tmp_path / "data" / "broken.png").write_bytes(b"x")
    found = container(job)
    (command,) = found["args"]
    for name in ("data", "models", "vectors"):
        assert f"/{name}" in [mount["mountPath"] for mount in found["volumeMounts"]]
        command = re.sub(rf"(?<=[ \"])/{name}(?=[ /])", f"{tmp_path}/{name}", command)
    fixed = {entry["name"]: entry["value"] for entry in found["env"] if "value" in entry}
    completions = job["spec"]["completions"]
    program = str(Path(sys.executable).with_name("forwardpass"))

    def run(*arguments: str, code: int = 0, **environment: str) -> None:
        ended = subprocess.run(
            arguments,
            env={**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr

    # Most of the eight have no shard to do, and are done.
    for index in (0, 1, completions - 1):
        part = fixed["FORWARDPASS_PART"].replace("$(INDEX)", str(index))
        assert part == f"{index}/{completions}"
        run(*found["command"], command, MODEL=fixed["MODEL"], FORWARDPASS_PART=part)
    run(*found["command"], command, code=USAGE, MODEL="unknown")
    out = tmp_path / "vectors" / "job"
    assert sorted(path.name for path in out.iterdir()) == [
        f"part-{index}-of-{completions}" for index in (0, 1, completions - 1)
    ]
    for index in range(2, completions - 1):
        run(*found["command"], command, MODEL=fixed["MODEL"], FORWARDPASS_PART=f"{index}/8")
    run(program, "embed", "--merge", str(out), code=PARTIAL)
    assert parquet.read_table(out / "vectors").num_rows == 20
