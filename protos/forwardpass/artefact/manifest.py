"""The manifest: written last, so that a folder with a true one is whole.

{"schema_version": 1, "created": "2026-01-31T12:00:00+00:00",
 "files": {"model.onnx": {"size": 250000, "sha256": "…"}, …}}
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from forwardpass.artefact.digest import file_digest

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20


class ManifestError(ValueError):
    """A folder that is not what its manifest says; the message says where they differ."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every file of a version but the manifest itself, by its path in the folder."""

    created: str
    files: Mapping[str, FileEntry]


def write_manifest(folder: Path) -> Manifest:
    """Describes every file in the folder, and syncs the manifest to disk."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, file_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    manifest = Manifest(datetime.now(UTC).isoformat(timespec="seconds"), files)
    document = {
        "schema_version": SCHEMA_VERSION,
        "created": manifest.created,
        "files": {name: {"size": e.size, "sha256": e.sha256} for name, e in files.items()},
    }
    with (folder / MANIFEST_FILE).open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Returns what the folder's manifest says, without comparing it with the files.

    Raises:
        FileNotFoundError: The folder has no manifest.
        ManifestError: The manifest is not valid, or of a later schema than this version knows.
    """
    path = folder / MANIFEST_FILE
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{MANIFEST_FILE} is larger than {MAX_MANIFEST_BYTES} bytes")
    return parse_manifest(path.read_bytes())


def parse_manifest(data: bytes) -> Manifest:
    """Returns what a manifest of these bytes says.

    Raises:
        ManifestError: As for `read_manifest`.
    """
    try:
        document = json.loads(data.decode())
        _check_version(document["schema_version"])
        files = {
            str(name): FileEntry(int(entry["size"]), str(entry["sha256"]))
            for name, entry in document["files"].items()
        }
        created = str(document["created"])
    except ManifestError:
        raise
    except RecursionError:
        raise ManifestError(f"{MANIFEST_FILE} is not valid: it is nested too deep") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ManifestError(f"{MANIFEST_FILE} is not valid: {error!r}") from None
    for name in files:
        path_in_folder = PurePosixPath(name)
        if path_in_folder.is_absolute() or ".." in path_in_folder.parts or "\0" in name:
            raise ManifestError(f"{MANIFEST_FILE} names {name!r}, which is not in the folder")
    return Manifest(created, files)


def _check_version(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{MANIFEST_FILE} has schema version {version}; "
            f"this version of forwardpass reads {SCHEMA_VERSION}"
        )


def compare_names(manifest: Manifest, found: set[str]) -> None:
    """Compares the names of a folder's files, without the manifest, with those that it lists.

    Raises:
        ManifestError: A file is missing or extra.
    """
    if missing := manifest.files.keys() - found:
        raise ManifestError(f"{_some(missing)} missing: the copy is not complete")
    if extra := found - manifest.files.keys():
        raise ManifestError(f"{_some(extra)} not in {MANIFEST_FILE}")


def verify_manifest(folder: Path) -> Manifest:
    """Compares every file in the folder with the manifest, and returns the manifest.

    Raises:
        FileNotFoundError: The folder has no manifest.
        ManifestError: A file is missing, extra, altered, or no plain file of its own.
    """
    manifest = read_manifest(folder)
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ManifestError(f"{name} is not a plain file")
        if path.is_file() and name != MANIFEST_FILE:
            found.add(name)
    compare_names(manifest, found)
    for name, entry in manifest.files.items():
        status = (folder / name).stat()
        if status.st_nlink != 1:
            raise ManifestError(f"{name} has other hard links, through which it could change")
        if status.st_size != entry.size:
            raise ManifestError(f"{name} has {status.st_size} bytes, not {entry.size}")
        if file_digest(folder / name) != entry.sha256:
            raise ManifestError(f"{name} has been altered: its SHA-256 differs")
    return manifest


def _some(names: Collection[str]) -> str:
    listed = ", ".join(sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{listed}{more} {'is' if len(names) == 1 else 'are'}"
