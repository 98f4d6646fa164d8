"""Writes a version into the clone: the project file, the changelog, the names of the images.

The first step of `make release`, which then builds, commits and tags.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import Version

ROOT = Path(__file__).parent
PROJECT = ROOT / "pyproject.toml"
CHANGELOG = ROOT / "CHANGELOG.md"
# Images that hold the product; those of models have versions of their own.
IMAGES = "forwardpass|forwardpass-embed|forwardpass-cuda"
# Names that nobody can own (RFC 2606): a stand-in for a home that was not chosen.
RESERVED = re.compile(r"(^|\.)(example|example\.(com|net|org)|invalid|localhost|test)$")


class ReleaseError(Exception):
    """Why there is no release, and what to do about it."""


def git(*arguments: str) -> str:
    """Runs git in the clone and returns what it printed."""
    ended = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return ended.stdout


def check(version: str, current: str, urls: dict[str, str]) -> None:
    """Finds what stands against a release.

    Args:
        version: The version to be released.
        current: The version that the project file states.
        urls: The addresses that the project file states, by their names.

    Raises:
        ReleaseError: Something does.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version):
        raise ReleaseError(f"{version!r} is no version such as 1.2.3 or 1.2.3rc1")
    if Version(version) < Version(current):
        raise ReleaseError(f"{version} is older than {current}, which pyproject.toml states")
    if git("tag", "--list", f"v{version}"):
        raise ReleaseError(f"the tag v{version} is there already: choose a later version")
    if git("status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed: commit or stash them")
    for name, url in urls.items():
        host = urlsplit(url).hostname or ""
        if RESERVED.search(host):
            raise ReleaseError(
                f"{name} in [project.urls] of pyproject.toml is on {host}, a reserved name: "
                "put the address of the public repository in its place"
            )


def with_images(current: str, version: str) -> dict[Path, str]:
    """Returns the text of each file in which images are named, with those of another version.

    Raises:
        ReleaseError: There is none.
    """
    image = rf"\b({IMAGES}):{re.escape(current)}(?![\w.])"
    found = [ROOT / name for name in git("ls-files", "deploy").splitlines()]
    texts = {path: path.read_text(encoding="utf-8") for path in found}
    named = {path: text for path, text in texts.items() if re.search(image, text)}
    if not named:
        raise ReleaseError(f"no file in deploy/ names an image of {current}: mend release.py")
    return {path: re.sub(image, rf"\1:{version}", text) for path, text in named.items()}


def with_section(text: str, version: str, date: str) -> str:
    """Returns a changelog in which the unreleased changes are those of a version.

    Raises:
        ReleaseError: There are none.
    """
    before, heading, after = text.partition("## [Unreleased]\n")
    changes = after.partition("\n## ")[0]
    if "\n- " not in changes:
        raise ReleaseError("CHANGELOG.md lists nothing under [Unreleased]")
    return f"{before}{heading}\n## [{version}] - {date}\n{after}"


def replace(path: Path, pattern: str, by: str) -> str:
    """Returns a file's text in which a pattern is replaced.

    Raises:
        ReleaseError: It is not found.
    """
    text, count = re.subn(pattern, by, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not count:
        raise ReleaseError(f"{path.relative_to(ROOT)} has no {pattern}: mend it or release.py")
    return text


def release(version: str) -> None:
    """Writes a version into the clone.

    Raises:
        ReleaseError: Something stands against it; nothing has been written.
    """
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    current = project["version"]
    check(version, current, project["urls"])
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    texts = {
        PROJECT: replace(PROJECT, rf'^version = "{re.escape(current)}"$', f'version = "{version}"'),
        CHANGELOG: with_section(CHANGELOG.read_text(encoding="utf-8"), version, date),
        **with_images(current, version),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """The command: `python release.py VERSION`."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    parser.add_argument("version", help="such as 1.2.3")
    try:
        release(parser.parse_args().version)
    except ReleaseError as error:
        sys.exit(f"release: error: {error}")


if __name__ == "__main__":
    main()
