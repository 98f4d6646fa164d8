"""What turns rows into vectors: a server, or a model in this process."""

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forwardpass.artefact import space_id
from forwardpass.client.card import ImageInput, TensorSpec
from forwardpass.wire import Array

# Rows of a run, whatever the model and the server: what a batch holds is then the same always.
BATCH_ROWS = 64
# Likewise of bytes: more save little, and 8 MiB are the most that a pod's server takes.
MAX_BATCH_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Space:
    """Whose vectors a job holds.

    Attributes:
        model: The model's name.
        version: The version that the job began with.
        digest: SHA-256 of its ONNX file, in hexadecimal.
        output: Its embedding output.
        space_id: What tells its vectors from others, those of pictures prepared in another way
            among them.
        dimension: The length of a vector.
    """

    model: str
    version: int
    digest: str
    output: str
    space_id: str
    dimension: int

    @property
    def model_space_id(self) -> str:
        """The id of the vectors of pictures that are prepared as the card says."""
        return space_id(self.digest, self.output)

    def facts(self) -> dict[str, str]:
        """Returns what a file of its vectors says of whose they are."""
        return {
            "forwardpass.model": self.model,
            "forwardpass.version": str(self.version),
            "forwardpass.digest": self.digest,
            "forwardpass.output": self.output,
            "forwardpass.space_id": self.space_id,
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """What a job needs to know of a model.

    Attributes:
        space: Whose vectors it gives.
        inputs: What it takes.
        image: How its image input is made; None where it has none.
        ground: How bright the pictures' grounds are that it learned from; None where not known.
        batch_rows: How many rows a run has at most.
        batch_bytes: How many bytes its input has at most.
    """

    space: Space
    inputs: tuple[TensorSpec, ...]
    image: ImageInput | None
    ground: float | None
    batch_rows: int
    batch_bytes: int = MAX_BATCH_BYTES

    def input_of(self, role: str) -> TensorSpec | None:
        """Returns the input of a role, such as "text"."""
        return next((spec for spec in self.inputs if spec.role == role), None)


class Embedder(Protocol):
    """Runs one model; may be used by several threads.

    Attributes:
        subject: The model.
        threads: How many callers keep it busy.
    """

    subject: Subject
    threads: int

    def embed(self, name: str, rows: Array) -> NDArray[np.float32]:
        """Returns the vectors, (rows, dimension), of the rows given to an input.

        The rows run by themselves, so that equal rows in an equal batch give equal bits.

        Raises:
            ForwardpassError: No patience is left, or the request is wrong.
            JobError: The model has become another.
        """

    def close(self) -> None:
        """Ends what waits, and lets go of what is held."""


class OpenEmbedder(Protocol):
    """Gets at a model in whatever process; can be pickled."""

    def __call__(self, space: Space | None) -> Embedder:
        """Opens the model that gives vectors of a space; the one that is named where None."""


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rows_a_batch(subject: Subject, row_bytes: int) -> int:
    """Returns how many rows each run of a job has.

    Args:
        subject: The model.
        row_bytes: The size of a row as it is sent, at most.
    """
    fitting = subject.batch_bytes // max(row_bytes, 1)
    return max(1, min(BATCH_ROWS, subject.batch_rows, fitting))
