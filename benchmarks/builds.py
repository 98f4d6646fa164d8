"""Commits, each installed as a user would, with the versions of others' packages that are here."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

_DISTRIBUTION = "forwardpass"
_LAST_LINES = 15


@dataclass(frozen=True)
class Commit:
    """What is built.

    Attributes:
        digest: Names the commit to git.
        told: Names it to people.
    """

    digest: str
    told: str


@dataclass(frozen=True)
class Build:
    """A commit that is installed.

    Attributes:
        name: "base" or "current".
        program: Starts its server.
    """

    name: str
    program: Sequence[str]


def find_commit(repository: Path, revision: str) -> Commit:
    """Returns the commit of a branch, a tag or a digest.

    Raises:
        SystemExit: There is no such commit.
    """
    digest = _git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}")
    return Commit(digest, _git(repository, "rev-parse", "--short", digest))


def checked_out(repository: Path) -> Commit:
    """Returns a commit of what is checked out, with the changes that are not committed yet.

    Files that git has not been told of are not in it.
    """
    head = find_commit(repository, "HEAD")
    # It makes a commit that no branch has, and leaves branch, index and files alone.
    changed = _git(repository, "stash", "create")
    return Commit(changed, f"{head.told} with uncommitted changes") if changed else head


@contextmanager
def worktree(repository: Path, commit: Commit, folder: Path) -> Iterator[None]:
    """Checks a commit out into a folder of its own, which goes again however the block ends."""
    try:
        _git(repository, "worktree", "add", "--detach", str(folder), commit.digest)
        yield
    finally:
        if folder.exists():
            _git(repository, "worktree", "remove", "--force", str(folder))


def constraints() -> str:
    """Returns pip's constraints to the versions of all packages that are here, but ours."""
    names = sorted({distribution.name for distribution in distributions()} - {_DISTRIBUTION})
    return "".join(f"{name}=={version(name)}\n" for name in names)


def build(name: str, repository: Path, commit: Commit, folder: Path) -> Build:
    """Installs a commit in a virtual environment of its own.

    Args:
        name: What the build is called.
        repository: Which repository has the commit.
        commit: What to install.
        folder: Where to; is made.

    Raises:
        SystemExit: pip does not install it.
    """
    source, home = folder / "source", folder / "venv"
    folder.mkdir()
    required = folder / "constraints.txt"
    required.write_text(constraints(), encoding="utf-8")
    venv.create(home, symlinks=True)
    # Only what is installed is found of ours, and what pip leaves behind goes with the folder.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["TMPDIR"] = str(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    with worktree(repository, commit, source):
        done = subprocess.run(
            [*pip, "--constraint", str(required), f"{source}[server]"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-_LAST_LINES:])
        raise SystemExit(f"pip does not install {commit.told}: {end}")
    server = str(home / "bin" / "forwardpass-serve")
    return Build(name, ("env", "--unset=PYTHONPATH", server))


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
