"""A published model in this process, for jobs without a server. Nothing else in the client knows
ONNX Runtime.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import (
    CARD_KEY,
    CardError,
    ManifestError,
    card_from_json,
    space_id,
    verify_manifest,
)
from forwardpass.client.card import to_card, to_tensor_spec
from forwardpass.client.errors import InvalidInput, ModelNotFound, ServerError, WrongTask
from forwardpass.client.jobs.embedder import BATCH_ROWS, Space, Subject, cores
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.polarity import known_ground
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

_MODEL_FILE = "model.onnx"
# Of ONNX Runtime's operators: results of some depend on where their input begins.
_ALIGNMENT = 64
# Errors are raised; its own lines would stand among ours.
_QUIET = 4


class LocalEmbedder:
    """Embeds rows with ONNX Runtime in this process, on the CPU.

    Every run has one thread, and there are as many runs at a time as cores: so vectors are the same
    on a machine with more of them.

    Attributes:
        subject: The model.
        threads: As in `Embedder`.

    Args:
        folder: A version's folder, as `find_version` gives it.
        space: Whose vectors are wanted; the first embedding output's where None.
        threads: How many runs at a time; as many as there are cores where None.

    Raises:
        JobError: Its files are not what its manifest says, or it gives other vectors.
        WrongTask: It gives no vectors.
    """

    def __init__(
        self, folder: Path, space: Space | None = None, threads: int | None = None
    ) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self.threads = threads or cores()
        try:
            digest = verify_manifest(folder).files[_MODEL_FILE].sha256
        except (OSError, ManifestError, KeyError) as error:
            raise JobError(f"{folder} is no published version of a model: {error}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(folder / _MODEL_FILE), options, providers=["CPUExecutionProvider"]
            )
            text = self._session.get_modelmeta().custom_metadata_map[CARD_KEY]
            card = card_from_json(text)
        except (KeyError, CardError) as error:
            raise JobError(f"{folder} has no card that can be read: {error}") from None
        except Exception as error:  # noqa: BLE001
            # ONNX Runtime's own classes of errors are not public.
            raise JobError(f"{folder / _MODEL_FILE} cannot be loaded: {error}") from None
        self.subject = _subject(folder, digest, card, space)

    def embed(self, name: str, rows: Array) -> NDArray[np.float32]:
        """See `Embedder.embed`."""
        output = self.subject.space.output
        try:
            (vectors,) = self._session.run([output], {name: _aligned(rows)})
        except Exception as error:  # noqa: BLE001
            # As above. What the input is at fault for is told in the same way.
            raise _failure(error) from None
        return np.asarray(vectors, np.float32)

    def close(self) -> None:
        """See `Embedder.close`."""


@dataclass(frozen=True, slots=True)
class OpenLocal:
    """Loads a published model, in whatever process.

    Attributes:
        folder: A version's, as `find_version` gives it.
        threads: As `LocalEmbedder` takes it.
    """

    folder: Path
    threads: int | None = None

    def __call__(self, space: Space | None) -> LocalEmbedder:
        """See `OpenEmbedder`."""
        return LocalEmbedder(self.folder, space, self.threads)


def find_version(path: Path, version: int | None = None) -> Path:
    """Returns the folder of a version.

    Args:
        path: A model's folder, or that of one of its versions.
        version: Which version; the newest where None.

    Raises:
        ModelNotFound: There is none.
    """
    if (path / _MODEL_FILE).is_file():
        return path.absolute()
    numbers = sorted(
        int(child.name)
        for child in path.iterdir()
        if child.name.isdecimal() and (child / _MODEL_FILE).is_file()
    )
    if not numbers or version not in (None, *numbers):
        there = ", ".join(map(str, numbers)) or "none"
        what = "version" if version is None else f"version {version}"
        raise ModelNotFound(f"{path} has no {what} of a model; versions there: {there}")
    return (path / str(version or numbers[-1])).absolute()


def _subject(
    folder: Path, digest: str, card: model_card_pb2.ModelCard, space: Space | None
) -> Subject:
    name, number = folder.parent.name, int(folder.name) if folder.name.isdecimal() else 0
    signature = card.signature
    spaces = [
        Space(name, number, digest, output.name, space_id(digest, output.name), output.shape[-1])
        for output in signature.outputs
        if output.role == model_card_pb2.TENSOR_ROLE_EMBEDDING
    ]
    if not spaces:
        raise WrongTask(f"{name} has no embedding output, so it gives no vectors")
    chosen = spaces[0]
    if space is not None:
        same = [found for found in spaces if found.space_id == space.model_space_id]
        if not same:
            raise JobError(
                f"{folder} gives vectors of space {chosen.space_id}, and the job holds vectors of "
                f"space {space.space_id}, of version {space.version}: name that version, or begin "
                "another job in another folder"
            )
        chosen = same[0]
    known = to_card(card)
    return Subject(
        chosen,
        tuple(map(to_tensor_spec, signature.inputs)),
        known.image,
        known_ground(known),
        signature.max_rows or BATCH_ROWS if signature.batched else 1,
    )


def _aligned(rows: Array) -> Array:
    if rows.dtype.kind == "O" or rows.ctypes.data % _ALIGNMENT == 0:
        return rows
    buffer = np.empty(rows.nbytes + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    aligned = buffer[begin : begin + rows.nbytes].view(rows.dtype).reshape(rows.shape)
    aligned[...] = rows
    return aligned


def _failure(error: Exception) -> Exception:
    text = str(error).splitlines()[0][:256]
    is_invalid = type(error).__name__ == "InvalidArgument"
    return InvalidInput(text, field="inputs") if is_invalid else ServerError(text)
