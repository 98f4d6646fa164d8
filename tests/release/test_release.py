"""`make release` in a copy of this clone: what it writes, builds and refuses."""

import email
import email.message
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .lock_files import ROOT, read

# Packages are fetched, on a busy machine slowly.
pytestmark = pytest.mark.timeout(900)

VERSION = "9.8.7"
MAKE = ("make", "--old-file=.venv/tools")
RESERVED = "git.example.org"
HOME = "git.forwardpass.internal"
CALLER = {
    "GIT_AUTHOR_NAME": "A tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}


@dataclass(frozen=True)
class Clone:
    """A repository of its own with the files of this one, which its `origin` does not have yet."""

    folder: Path

    def run(self, *command: str, code: int = 0) -> str:
        """Runs a command in it, and returns what it printed."""
        # Flags of a `make` that runs the tests are not for one that is tested.
        variables = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=variables | CALLER,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        printed = ended.stdout + ended.stderr
        assert ended.returncode == code, f"{command}\n{printed}"
        return printed

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text(encoding="utf-8")
        assert old in text
        (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")

    @property
    def project(self) -> dict[str, object]:
        text = self.git("show", "HEAD:pyproject.toml")
        project: dict[str, object] = tomllib.loads(text)["project"]
        return project


def make_clone(folder: Path) -> Clone:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("these sources are no clone")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    clone = Clone(folder)
    clone.git("init", "--quiet", "--initial-branch=main")
    clone.git("init", "--quiet", "--bare", ".git/origin.git")
    clone.git("remote", "add", "origin", ".git/origin.git")
    (folder / ".git/info/exclude").write_text("/.venv\n")
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "All of it")
    return clone


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone that knows its public home, and has made a release."""
    clone = make_clone(tmp_path_factory.mktemp("released"))
    clone.edit("pyproject.toml", RESERVED, HOME)
    clone.git("commit", "--quiet", "--all", "--message", "A home")
    clone.run(*MAKE, "release", f"VERSION={VERSION}")
    return clone


def wheel_of(clone: Clone) -> Path:
    (wheel,) = (clone.folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture
def metadata(released: Clone) -> email.message.Message:
    with zipfile.ZipFile(wheel_of(released)) as wheel:
        text = wheel.read(f"forwardpass-{VERSION}.dist-info/METADATA").decode()
    return email.message_from_string(text)


def test_the_version_is_committed_and_tagged_and_stays_here(released: Clone) -> None:
    assert released.git("status", "--porcelain") == ""
    assert released.git("log", "-1", "--format=%s").strip() == f"Version {VERSION}"
    assert released.git("tag", "--points-at", "HEAD").split() == [f"v{VERSION}"]
    assert released.git("ls-remote", "origin") == ""
    assert released.project["version"] == VERSION


def test_images_have_the_version(released: Clone) -> None:
    before = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in ("deploy/kustomize/base/deployment.yaml", "deploy/kustomize/embed-job/job.yaml"):
        text = (released.folder / path).read_text(encoding="utf-8")
        assert re.search(rf"image: forwardpass(-embed)?:{re.escape(VERSION)}$", text, re.MULTILINE)
    named = released.git(
        "grep", "--only-matching", "-E", r"\bforwardpass(-embed|-cuda)?:[0-9][0-9.]*"
    )
    assert f":{before['version']}" not in named


def test_what_was_unreleased_is_the_versions(released: Clone) -> None:
    text = (released.folder / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(VERSION)}\] - \d{{4}}-\d\d-\d\d", headings[1])
    between, after = text.split("## [Unreleased]\n")[1].split(f"## {headings[1]}\n")
    assert not between.strip()
    assert after == (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("[Unreleased]\n")[1]


def test_there_is_a_wheel_below_a_megabyte_and_a_source_distribution(released: Clone) -> None:
    wheel = wheel_of(released)
    assert wheel.name == f"forwardpass-{VERSION}-py3-none-any.whl"
    assert wheel.stat().st_size < 1_000_000
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.split("/")[0] for name in names} == {
        "forwardpass",
        f"forwardpass-{VERSION}.dist-info",
    }
    for part in ("v1/inference_service_pb2.py", "server/cli.py", "trainer/cli.py", "client/cli.py"):
        assert f"forwardpass/{part}" in names
    with tarfile.open(released.folder / f"dist/forwardpass-{VERSION}.tar.gz") as packed_sources:
        sources = packed_sources.getnames()
    assert {f"forwardpass-{VERSION}/{name}" for name in ("LICENSE", "Makefile")} <= {*sources}
    assert not [name for name in sources if "/.venv" in name or "/.git/" in name]


def test_the_readme_leads_to_the_files_of_the_version(
    released: Clone, metadata: email.message.Message
) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    tag = f"https://{HOME}/forwardpass/forwardpass/blob/v{VERSION}/"
    links = re.findall(r"\]\(([^)]*)\)", text)
    into = [link.removeprefix(tag) for link in links if link.startswith(tag)]
    assert len(into) > 10
    assert all((released.folder / link.split("#")[0]).exists() for link in into)
    assert all(re.match("https?://|#", link) for link in links)
    files = f"https://{HOME}/forwardpass/forwardpass/raw/v{VERSION}/"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert pictures
    assert all(picture.startswith(files) for picture in pictures)


def test_the_metadata_is_that_of_the_project(metadata: email.message.Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("forwardpass", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL", []))
    assert urls["Source"] == f"https://{HOME}/forwardpass/forwardpass"
    assert all(url.startswith(urls["Source"]) for url in urls.values())
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_lists_have_every_package_with_its_licence(released: Clone) -> None:
    released.run(*MAKE, "sbom")
    for name in ("server", "server-embed", "wheel"):
        listed = json.loads((released.folder / f"dist/forwardpass-{name}.cdx.json").read_text())
        assert listed["metadata"]["component"]["version"] == VERSION
        found = {
            re.sub("[-_.]+", "-", component["name"]).lower(): component["version"]
            for component in listed["components"]
        }
        if name == "wheel":
            assert {"grpcio", "numpy", "typer"} <= found.keys()
            assert "onnxruntime" not in found
        else:
            pins = [pin for pin in read(f"{name}.lock") if pin.is_for_this_machine]
            assert found == {pin.name: pin.version for pin in pins}
        without = {each["name"] for each in listed["components"] if not each.get("licenses")}
        # Its metadata has the licence as free text.
        assert without <= {"protobuf"}


Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def refuse(clone: Clone) -> Refuse:
    """Asks for a release that there must not be, and returns why."""
    clone.git("reset", "--quiet", "--hard", "HEAD")

    def ask(version: str, *edits: tuple[str, str, str], commit: bool = True) -> str:
        before = clone.git("rev-parse", "HEAD").strip()
        for edit in edits:
            clone.edit(*edit)
        if commit and edits:
            clone.git("commit", "--quiet", "--all", "--message", "Edited")
        text = clone.git("diff", "HEAD")
        printed = clone.run(*MAKE, "release", f"VERSION={version}", code=2)
        assert clone.git("diff", "HEAD") == text
        assert not (clone.folder / "dist").exists()
        clone.git("reset", "--quiet", "--hard", before)
        return printed

    return ask


MOVED = ("pyproject.toml", RESERVED, HOME)


@pytest.mark.parametrize("version", ["", "1", "1.2", "v1.2.3", "1.2.3.dev1", "1.2.3; true"])
def test_what_is_no_version_is_refused(version: str, refuse: Refuse) -> None:
    assert "is no version such as 1.2.3" in refuse(version)


def test_an_older_version_is_refused(refuse: Refuse) -> None:
    assert "0.0.9 is older than 0.1.0" in refuse("0.0.9", MOVED)


def test_a_version_that_is_tagged_is_refused(refuse: Refuse, clone: Clone) -> None:
    clone.git("tag", "v1.2.3")
    assert "the tag v1.2.3 is there already" in refuse("1.2.3", MOVED)


def test_changes_that_are_not_committed_are_refused(refuse: Refuse) -> None:
    assert "not committed" in refuse("1.2.4", MOVED, commit=False)


def test_a_home_that_nobody_can_own_is_refused(refuse: Refuse) -> None:
    assert f"is on {RESERVED}, a reserved name" in refuse("1.2.4")


def test_a_release_without_changes_is_refused(refuse: Refuse, clone: Clone) -> None:
    text = (clone.folder / "CHANGELOG.md").read_text(encoding="utf-8")
    listed = text.partition("## [Unreleased]\n")[2]
    assert "lists nothing" in refuse("1.2.4", MOVED, ("CHANGELOG.md", listed, ""))
