"""The files of deploy/ as values: what the Dockerfile says, and what kustomize renders."""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
BASE = ROOT / "deploy/kustomize/base"


@dataclass(frozen=True)
class Manifests:
    """The documents of a rendered kustomization."""

    documents: list[dict[str, Any]]

    def get(self, kind: str) -> dict[str, Any]:
        """The one document of a kind."""
        (only,) = self.all(kind)
        return only

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every document of a kind."""
        return [document for document in self.documents if document["kind"] == kind]

    @property
    def template(self) -> dict[str, Any]:
        """What pods are made from: labels and spec."""
        template: dict[str, Any] = self.get("Deployment")["spec"]["template"]
        return template

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec."""
        spec: dict[str, Any] = self.template["spec"]
        return spec

    @property
    def container(self) -> dict[str, Any]:
        """The pod's one container."""
        (only,) = self.pod["containers"]
        container: dict[str, Any] = only
        return container

    @property
    def settings(self) -> dict[str, str]:
        """The environment that the ConfigMap makes."""
        data: dict[str, str] = self.get("ConfigMap")["data"]
        return data


def render(kubectl: str, folder: Path) -> Manifests:
    """Returns what kustomize makes of a folder; without PyYAML, skips."""
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    rendered = subprocess.run(
        [kubectl, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert rendered.returncode == 0, rendered.stderr
    return Manifests(list(yaml.safe_load_all(rendered.stdout)))


@dataclass(frozen=True)
class Image:
    """What the last stage of a Dockerfile says."""

    instructions: list[tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> "Image":
        """Returns the last stage, with continued lines joined."""
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if line and not line.startswith("#"))
        instructions: list[tuple[str, str]] = []
        for line in text.replace("\\\n", "").splitlines():
            name, rest = line.split(maxsplit=1)
            if name == "FROM":
                instructions.clear()
            instructions.append((name, rest))
        return cls(instructions)

    def only(self, name: str) -> str:
        """The text of the one instruction of that name."""
        (text,) = [rest for instruction, rest in self.instructions if instruction == name]
        return text

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it sets."""
        return dict(part.split("=", 1) for part in shlex.split(self.only("ENV")))
