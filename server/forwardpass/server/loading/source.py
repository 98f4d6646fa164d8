"""What a version is made of, read once: what was verified is what is loaded."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from forwardpass.artefact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_GOLDEN_BYTES,
    MAX_MANIFEST_BYTES,
    MODEL_FILE,
    External,
    Golden,
    GraphFile,
    Manifest,
    ManifestError,
    compare_names,
    parse_golden,
    parse_manifest,
    read_graph,
)
from forwardpass.server.loading.files import RepositoryFiles
from forwardpass.server.process.memory import available_bytes

# Protobuf's own limit.
_MAX_MODEL_BYTES = 2 << 30


class SourceError(ValueError):
    """A folder whose files cannot be a version; the message says why."""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """The files of a version that every version may have, not looked into yet.

    Attributes:
        files: Opens more of them.
        folder: Where they lie.
        manifest: What they must be; None where that is not stated.
        model: The bytes of the ONNX file.
        golden: The bytes of the golden data; None where there are none.
        model_digest: SHA-256 of `model`.
        golden_digest: SHA-256 of `golden`, in hexadecimal; empty without.
    """

    files: RepositoryFiles
    folder: Path
    manifest: Manifest | None
    model: bytes
    golden: bytes | None
    model_digest: bytes
    golden_digest: str


@dataclass(frozen=True, slots=True)
class Source:
    """What a version is made of.

    Attributes:
        model: The bytes of the ONNX file.
        weights: The bytes of each file of weights outside of it, by the name that it uses.
        digest: SHA-256 of the ONNX file and, where there are any, of its files of weights.
        golden: Golden inputs and outputs; None where there are none.
        golden_digest: As for Unparsed.
        model_digest: As for Unparsed.
        unranked: The inputs of which the graph states no number of axes.
        has_control_flow: Whether how long a run takes depends on its values.
        divides: Whether there is a Div in the graph.
    """

    model: bytes
    weights: Mapping[str, bytes]
    digest: str
    golden: Golden | None
    golden_digest: str
    model_digest: bytes
    unranked: frozenset[str]
    has_control_flow: bool
    divides: bool

    @property
    def identity(self) -> str:
        """What tells the files of a version from any others."""
        return f"{self.digest} {self.golden_digest}"


def read_files(files: RepositoryFiles, folder: Path, *, manifest_required: bool) -> Unparsed:
    """Returns the files of a version as they are; only the manifest is parsed.

    Args:
        files: Opens them.
        folder: Where they lie.
        manifest_required: Whether there must be a manifest.

    Raises:
        SourceError: A file is missing, or the manifest is where it is required.
        FileError: A file must not be read.
        ManifestError: The files are not what the manifest says.
        OSError: A file cannot be read.
    """
    # A link on the way may be swapped for another while files are read.
    folder = Path(os.path.realpath(folder))
    manifest = _read_manifest(files, folder)
    if manifest is None and manifest_required:
        raise SourceError(
            f"it has no {MANIFEST_FILE}, which its siblings have: "
            "it is still being copied, or was not published by the trainer"
        )
    model, model_digest = _read(files, folder, MODEL_FILE, _MAX_MODEL_BYTES, manifest)
    golden: bytes | None = None
    golden_digest = b""
    with suppress(SourceError):  # There need not be any.
        golden, golden_digest = _read(files, folder, GOLDEN_FILE, MAX_GOLDEN_BYTES, manifest)
    return Unparsed(files, folder, manifest, model, golden, model_digest, golden_digest.hex())


def parse_graph(unparsed: Unparsed) -> GraphFile:
    """Returns what the ONNX file asks for.

    Raises:
        GraphError: The graph must not be loaded.
    """
    return read_graph(unparsed.model)


def weights_size(unparsed: Unparsed, graph: GraphFile) -> int:
    """Returns how many bytes the files of weights have.

    Raises:
        FileError: One is no plain file of the repository.
        OSError: One cannot be looked at.
    """
    names = {one.location for one in graph.external}
    return sum(unparsed.files.size(unparsed.folder / name) for name in names)


def complete(unparsed: Unparsed, graph: GraphFile) -> Source:
    """Returns all that a version is made of: reads the weights, and parses the golden data.

    Raises:
        SourceError: A file of weights is missing or too short, or the golden data are none.
        FileError: A file must not be read.
        ManifestError: The files are not what the manifest says.
        OSError: A file cannot be read.
    """
    read = {
        name: _read(unparsed.files, unparsed.folder, name, available_bytes(), unparsed.manifest)
        for name in sorted({one.location for one in graph.external})
    }
    for one in graph.external:
        _check_span(one, len(read[one.location][0]))
    golden = None
    if unparsed.golden is not None:
        try:
            golden = parse_golden(unparsed.golden)
        except MemoryError:
            raise
        except Exception as error:
            raise SourceError(f"{GOLDEN_FILE} cannot be read: {error}") from error
    weights = {name: data for name, (data, _) in read.items()}
    digests = {name: digest for name, (_, digest) in read.items()}
    digest = _whole_digest(unparsed.model_digest, digests).hex()
    return Source(
        unparsed.model,
        weights,
        digest,
        golden,
        unparsed.golden_digest,
        unparsed.model_digest,
        graph.unranked,
        graph.has_control_flow,
        graph.divides,
    )


def read_source(files: RepositoryFiles, folder: Path, *, manifest_required: bool) -> Source:
    """Returns what a version is made of; raises what `read_files` and what follows it raise."""
    unparsed = read_files(files, folder, manifest_required=manifest_required)
    return complete(unparsed, parse_graph(unparsed))


def _read_manifest(files: RepositoryFiles, folder: Path) -> Manifest | None:
    """Returns the manifest, having compared with it whatever is not read later anyway."""
    try:
        manifest = parse_manifest(files.read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
    except FileNotFoundError:
        return None
    compare_names(manifest, set(files.names(folder)) - {MANIFEST_FILE})
    for name in manifest.files:
        if name not in {MODEL_FILE, GOLDEN_FILE}:
            _verify(files, folder, name, manifest)
    return manifest


def _verify(files: RepositoryFiles, folder: Path, name: str, manifest: Manifest) -> None:
    entry = manifest.files[name]
    _check_size(name, files.size(folder / name), manifest)
    if files.digest(folder / name, entry.size).hex() != entry.sha256:
        raise ManifestError(f"{name} has been altered: its SHA-256 differs")


def _read(
    files: RepositoryFiles, folder: Path, name: str, most: int, manifest: Manifest | None
) -> tuple[bytes, bytes]:
    """Returns a file's bytes, which are the very ones that are compared, and their SHA-256."""
    path = folder / name
    if manifest is not None and name not in manifest.files:
        raise SourceError(f"{MANIFEST_FILE} lists no {name}")
    try:
        if manifest is not None:
            _check_size(name, files.size(path), manifest)
        data = files.read(path, most)
    except FileNotFoundError:
        raise SourceError(f"it has no {name}") from None
    digest = sha256(data).digest()
    if manifest is not None and digest.hex() != manifest.files[name].sha256:
        raise ManifestError(f"{name} has been altered: its SHA-256 differs")
    return data, digest


def _check_size(name: str, size: int, manifest: Manifest) -> None:
    stated = manifest.files[name].size
    if size != stated:
        raise ManifestError(f"{name} has {size} bytes, not {stated}")


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
    whole = sha256(model)
    for name, digest in weights.items():
        whole.update(name.encode() + b"\0" + digest)
    return whole.digest()
