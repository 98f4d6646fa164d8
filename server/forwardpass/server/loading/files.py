"""The files of a version, read once: what was verified is what is loaded."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from forwardpass.artefact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    External,
    Golden,
    Manifest,
    load_golden,
    read_graph,
    verify_manifest,
)


class SourceError(ValueError):
    """A folder whose files cannot be a version; the message says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a version is made of.

    Attributes:
        model: The bytes of the ONNX file.
        weights: The bytes of each file of weights outside of it, by the name that it uses.
        digest: SHA-256 of the ONNX file and, where there are any, of its files of weights.
        golden: Golden inputs and outputs; None where there are none.
        unranked: The inputs of which the graph states no number of axes.
        has_control_flow: Whether how long a run takes depends on its values.
    """

    model: bytes
    weights: Mapping[str, bytes]
    digest: str
    golden: Golden | None
    unranked: frozenset[str]
    has_control_flow: bool


def read_source(folder: Path, *, manifest_required: bool) -> Source:
    """Returns the files of a version.

    Raises:
        SourceError: A file is missing, or the manifest is where it is required.
        ManifestError: The files are not what the manifest says.
        GraphError: The graph must not be loaded.
        OSError: A file cannot be read.
    """
    manifest = None
    if (folder / MANIFEST_FILE).is_file():
        manifest = verify_manifest(folder)
    elif manifest_required:
        raise SourceError(
            f"it has no {MANIFEST_FILE}, which its siblings have: "
            "it is still being copied, or was not published by the trainer"
        )
    model, digest = _read(folder, MODEL_FILE, manifest)
    graph = read_graph(model)
    files = {
        name: _read(folder, name, manifest)
        for name in sorted({one.location for one in graph.external})
    }
    weights = {name: data for name, (data, _) in files.items()}
    for one in graph.external:
        _check_span(one, len(weights[one.location]))
    golden = None
    if (folder / GOLDEN_FILE).is_file():
        try:
            golden = load_golden(folder / GOLDEN_FILE)
        except Exception as error:
            raise SourceError(f"{GOLDEN_FILE} cannot be read: {error}") from error
    whole = _whole_digest(digest, {name: digest for name, (_, digest) in files.items()})
    return Source(model, weights, whole.hex(), golden, graph.unranked, graph.has_control_flow)


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Returns name, size and time of change of every file: equal while nothing changes.

    Empty where the folder is gone.
    """
    entries = []
    try:
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                name = path.relative_to(folder).as_posix()
                entries.append((name, status.st_size, status.st_mtime_ns))
    except FileNotFoundError:
        return ()
    return tuple(entries)


def _read(folder: Path, name: str, manifest: Manifest | None) -> tuple[bytes, bytes]:
    """Returns a file's bytes, which are the very ones that are compared, and their SHA-256."""
    if manifest is not None and name not in manifest.files:
        raise SourceError(f"{MANIFEST_FILE} lists no {name}")
    try:
        descriptor = _open(folder, name)
    except FileNotFoundError:
        raise SourceError(f"it has no {name}") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor has no path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise SourceError(f"{name} is not a plain file of its own")
        data = file.read()
    digest = hashlib.sha256(data).digest()
    if manifest is not None and digest.hex() != manifest.files[name].sha256:
        raise SourceError(f"{name} changed while it was being read")
    return data, digest


def _open(folder: Path, name: str) -> int:
    """Returns a descriptor of a file of the folder; no link is followed on the way to it."""
    *parents, last = PurePosixPath(name).parts
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            outside = inside
            inside = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outside)
            os.close(outside)
        # Nor may it have other links, which `_read` looks at: it could be changed through them.
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
    finally:
        os.close(inside)


def _check_span(external: External, size: int) -> None:
    end = external.offset + (external.length or 0)
    if end > size:
        raise SourceError(
            f"weights end at byte {end} of {external.location}, which has {size} bytes"
        )


def _whole_digest(model: bytes, weights: Mapping[str, bytes]) -> bytes:
    """Returns the digest of the ONNX file and of its files of weights, by their own digests."""
    if not weights:
        return model
    whole = hashlib.sha256(model)
    for name, digest in weights.items():
        whole.update(name.encode() + b"\0" + digest)
    return whole.digest()
