"""What the images are built from: pinned, with digests, and within the project's ranges."""

import json
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .lock_files import BUILD, FOLDER, IMAGES, ROOT, Pin, read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NODE = ROOT / "examples/clients/node"


def wanted(name: str) -> list[Requirement]:
    """What a lock file has to hold, by the project file."""
    if name == BUILD:
        texts = PROJECT["build-system"]["requires"]
    else:
        project = PROJECT["project"]
        extras = [project["optional-dependencies"][extra] for extra in IMAGES[name]]
        texts = sum(extras, project["dependencies"])
    return [Requirement(text) for text in texts]


def unmet(requirements: list[Requirement], pins: list[Pin]) -> list[str]:
    """Returns what no pin, or one beyond the range, is there for."""
    versions: dict[str, list[str]] = {}
    for pin in pins:
        versions.setdefault(pin.name, []).append(pin.version)
    return [
        str(requirement)
        for requirement in requirements
        for found in [versions.get(canonicalize_name(requirement.name), [])]
        if not found or not all(requirement.specifier.contains(version) for version in found)
    ]


def test_every_lock_file_is_known() -> None:
    assert {path.name for path in FOLDER.glob("*.lock")} == {*IMAGES, BUILD}


@pytest.mark.parametrize("name", [*IMAGES, BUILD])
def test_a_lock_holds_what_the_project_file_asks_for(name: str) -> None:
    assert not unmet(wanted(name), read(name))


def test_what_is_missing_and_what_is_out_of_range_is_found() -> None:
    pins = [Pin(Requirement("a==1.5"), []), Pin(Requirement("b==2; sys_platform == 'x'"), [])]
    asked = [Requirement(text) for text in ("A>=1", "a>=1.6", "b<2", "c")]
    assert unmet(asked, pins) == ["a>=1.6", "b<2", "c"]


@pytest.mark.parametrize("name", [*IMAGES, BUILD])
def test_every_package_has_one_version_and_digests(name: str) -> None:
    pins = read(name)
    assert len(pins) > 5
    for pin in pins:
        assert pin.version
        assert pin.digests, pin.name
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pin.digests), pin.name


@pytest.mark.parametrize("name", [*IMAGES, BUILD])
def test_a_lock_leaves_where_packages_come_from_to_who_installs(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert "://" not in text
    # Options of pip, such as --index-url, --find-links and --trusted-host.
    assert not re.findall(r"^ *-(?!-hash=sha256:).*", text, re.MULTILINE)


def test_packages_of_javascript_are_pinned_too() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text(encoding="utf-8"))
    asked = json.loads((NODE / "package.json").read_text(encoding="utf-8"))
    assert lock["packages"][""]["dependencies"] == asked["dependencies"]
    for folder, package in lock["packages"].items():
        if folder:
            assert package["integrity"].startswith("sha512-"), folder
            assert "resolved" not in package, folder


def test_the_image_takes_nothing_that_is_not_in_a_lock() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    commands = [command for line in text.splitlines() for command in line.split(" && ")]
    installs = [command for command in commands if re.search("pip.* install ", command)]
    assert len(installs) == 3
    assert [install for install in installs if "--require-hashes" not in install] == [
        # The wheel that was built before.
        install
        for install in installs
        if "--no-index" in install
    ]


def test_every_image_that_is_told_of_has_a_lock() -> None:
    pages = [ROOT / "deploy/README.md", ROOT / "deploy/kustomize/embed-job/job.yaml"]
    named = [re.findall(r"EXTRA=([\w,-]+\b)", page.read_text(encoding="utf-8")) for page in pages]
    assert all(named)
    assert {f"{name}.lock" for name in sum(named, ["server"])} == IMAGES.keys()
