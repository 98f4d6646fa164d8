"""The files of deploy/ as values: what the Dockerfile says, and what kustomize renders."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
KUSTOMIZE = ROOT / "deploy/kustomize"
BASE = KUSTOMIZE / "base"
COMPONENTS = KUSTOMIZE / "components"
# What makes pods, and where in it their spec lies.
_PODS = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
}


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
    def init_container(self) -> dict[str, Any]:
        """The pod's one container that runs before."""
        (only,) = self.pod["initContainers"]
        container: dict[str, Any] = only
        return container

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        """The pod's volumes by their names."""
        return {volume["name"]: volume for volume in self.pod["volumes"]}

    @property
    def pods(self) -> Iterator[dict[str, Any]]:
        """The spec of every kind of pod that is made."""
        for document in self.documents:
            if document["kind"] in _PODS:
                spec = document
                for key in _PODS[document["kind"]]:
                    spec = spec[key]
                yield spec

    @property
    def settings(self) -> dict[str, str]:
        """The environment of the pod's container, by the ConfigMap that it names."""
        (source,) = self.container["envFrom"]
        maps = {each["metadata"]["name"]: each["data"] for each in self.all("ConfigMap")}
        data: dict[str, str] = maps[source["configMapRef"]["name"]]
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


def compose(kubectl: str, folder: Path, *components: str, base: Path = BASE) -> Manifests:
    """Returns the base with components, as an overlay in an empty folder has it."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization"]
    lines += ["resources:", f"- {os.path.relpath(base, folder)}", "components:"]
    lines += [f"- {os.path.relpath(COMPONENTS / name, folder)}" for name in components]
    (folder / "kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")
    return render(kubectl, folder)


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
