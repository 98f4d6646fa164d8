"""The files of .github, by their schemas and by what is known to be dangerous in a workflow."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .lock_files import ROOT

FILES = {
    "github-workflows": ".github/workflows/ci.yml",
    "dependabot": ".github/dependabot.yml",
}
CI = ROOT / FILES["github-workflows"]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_schema(schema: str, path: Path) -> subprocess.CompletedProcess[str]:
    return run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)


def audit(path: Path) -> subprocess.CompletedProcess[str]:
    flags = ("--offline", "--no-progress", "--quiet", "--persona=pedantic")
    return run("zizmor", *flags, "--config", ".github/zizmor.yml", path)


@pytest.mark.parametrize(("schema", "path"), FILES.items())
def test_a_file_is_what_the_forge_takes(schema: str, path: str) -> None:
    checked = check_schema(schema, ROOT / path)
    assert checked.returncode == 0, checked.stdout


def test_nothing_dangerous_is_found() -> None:
    found = audit(ROOT / ".github")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("contents: read", "contents: write", "excessive-permissions"),
        ("persist-credentials: false", "fetch-depth: 1", "artipacked"),
        ("pull_request:", "pull_request_target:", "dangerous-triggers"),
        ("run: .ci/run", "run: echo ${{ github.head_ref }}", "template-injection"),
    ],
)
def test_what_is_dangerous_would_be_found(good: str, bad: str, told: str, tmp_path: Path) -> None:
    text = CI.read_text(encoding="utf-8")
    assert good in text
    workflow = tmp_path / ".github/workflows/ci.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(text.replace(good, bad))
    found = audit(workflow)
    assert found.returncode != 0
    assert told in found.stdout


def test_what_the_forge_would_not_take_would_be_found(tmp_path: Path) -> None:
    workflow = tmp_path / "ci.yml"
    workflow.write_text(CI.read_text(encoding="utf-8").replace("runs-on:", "run-on:"))
    assert check_schema("github-workflows", workflow).returncode != 0


def test_it_runs_what_a_person_runs_on_every_python_that_is_claimed() -> None:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]
    assert [step["run"] for step in jobs["checks"]["steps"] if "run" in step] == [".ci/run"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: 3."
    claimed = [each.rsplit(" ", 1)[1] for each in project["classifiers"] if prefix in each]
    assert jobs["checks"]["strategy"]["matrix"]["python"] == claimed
    assert project["requires-python"] == f">={claimed[0]}"
