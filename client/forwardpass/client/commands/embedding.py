"""Rows to vectors: decoded in several threads, several calls in flight, answered in order."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.client import DEFAULT_MESSAGE_BYTES, Client
from forwardpass.client.commands.sources import ImageFiles, Source
from forwardpass.client.errors import ServerError
from forwardpass.client.models import Model
from forwardpass.client.polarity import are_inverted, known_ground

_ROWS_A_CALL = 64
# Each thread decodes the rows of a call and then waits for its answer: one more than there are
# cores keeps all of them busy while the server works.
_THREADS = min(8, (os.cpu_count() or 1) + 1)


@dataclass(frozen=True, slots=True)
class Embedded:
    """Consecutive rows with their vectors.

    Attributes:
        rows: Which rows of the source.
        vectors: float32 (rows, dimension), NaN where there is an error.
        errors: For each row why it has no vector, or None.
        inverted: Those of the rows that are pictures the model is likely to misread.
    """

    rows: range
    vectors: NDArray[np.float32]
    errors: list[str | None]
    inverted: list[int]


def embed_rows(
    client: Client, model: Model, source: Source, *, normalize: bool
) -> Iterator[Embedded]:
    """Embeds a source's rows, in order, with the model's first embedding output.

    Raises:
        ForwardpassError: A call failed; what has not been sent is then given up.
    """
    space = model.embedding_spaces[0]
    ground = known_ground(model.card) if isinstance(source, ImageFiles) else None

    def embed(rows: range) -> Embedded:
        loaded = source.load(rows)
        vectors = np.full((len(rows), space.dimension), np.nan, np.float32)
        inverted: list[int] = []
        if len(loaded.rows):
            answer = client.embed(
                model.summary.name,
                {source.input: loaded.rows},
                output=space.output,
                normalize=normalize,
                version=model.summary.version,
            )
            if answer.space_id != space.space_id:
                raise ServerError(
                    f"the vectors changed from space {space.space_id} to {answer.space_id} "
                    "during the run: was another model put in this version's place?"
                )
            good = [row for row, error in zip(rows, loaded.errors, strict=True) if error is None]
            vectors[[row - rows.start for row in good]] = answer.vectors
            if ground is not None:
                found = are_inverted(loaded.rows, ground)
                inverted = [
                    row for row, is_inverted in zip(good, found, strict=True) if is_inverted
                ]
        return Embedded(rows, vectors, loaded.errors, inverted)

    size = _rows_a_call(model, source.row_bytes)
    total = len(source.names)
    waiting: deque[Future[Embedded]] = deque()
    pool = ThreadPoolExecutor(_THREADS, "embed")
    try:
        for start in range(0, total, size):
            waiting.append(pool.submit(embed, range(start, min(start + size, total))))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _rows_a_call(model: Model, row_bytes: int) -> int:
    """Rows that the model takes at once, that fill a batch, and that fit in half a message."""
    signature = model.signature
    most = signature.max_rows or _ROWS_A_CALL if signature.batched else 1
    fitting = DEFAULT_MESSAGE_BYTES // 2 // max(row_bytes, 1)
    return max(1, min(_ROWS_A_CALL, most, fitting))
