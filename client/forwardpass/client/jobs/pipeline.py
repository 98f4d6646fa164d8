"""Rows to vectors: read and decoded in several threads, several batches under way, in order.

A batch is the same whatever else happens: it begins at a multiple of its size, it is filled up with
zeros, as is the place of a row that cannot be read, and it runs by itself. So its vectors are the
same bit for bit in every run of a job, also where a model's rows depend on their neighbours.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.errors import InvalidInput
from forwardpass.client.inputs import as_typed
from forwardpass.client.jobs.embedder import Embedder
from forwardpass.client.jobs.geometry import unit
from forwardpass.client.jobs.listing import Kind, Listing, Row
from forwardpass.client.jobs.pictures import Decoder
from forwardpass.client.jobs.reading import RowError, RowReader
from forwardpass.client.polarity import are_inverted
from forwardpass.wire import Array, Preparation


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows become vectors.

    Attributes:
        input: The model's input that takes them.
        batch_rows: How many of them run together.
        normalize: Whether to scale each vector to length 1.
        invert: Whether to embed the pictures' negatives.
        column: The column of Parquet files to read.
        preparation: How pictures are prepared; None for other rows.
        card_preparation: How the model's card has them prepared; likewise.
    """

    input: str
    batch_rows: int
    normalize: bool
    invert: bool
    column: str | None
    preparation: Preparation | None
    card_preparation: Preparation | None

    def facts(self) -> dict[str, str]:
        """Returns what a file of its vectors says of how they were made."""
        facts = {"forwardpass.normalized": str(self.normalize).lower()}
        if self.preparation is not None:
            facts["forwardpass.preparation"] = str(self.preparation)
            facts["forwardpass.inverted"] = str(self.invert).lower()
        return facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the plan whose fields `dataclasses.asdict` gave."""
        names = ("preparation", "card_preparation")
        prepared = {name: Preparation(**facts[name]) if facts[name] else None for name in names}
        return cls(**{**facts, **prepared})


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Consecutive rows with their vectors.

    Attributes:
        rows: Which rows of the list.
        vectors: float32 (rows, dimension); NaN where there is an error.
        errors: For each row why it has no vector, or None.
        hashes: For each row the SHA-256 of its bytes, in hexadecimal; empty where they could not
            be read.
        sizes: int32 (rows, 2): width and height of pictures; 0 for others.
        inverted: Those of the rows that are pictures the model is likely to misread.
    """

    rows: range
    vectors: NDArray[np.float32]
    errors: list[str | None]
    hashes: list[str]
    sizes: NDArray[np.int32]
    inverted: list[int]


@dataclass(slots=True, eq=False)
class _Batch:
    """What has been read of some rows."""

    values: list[Array | str | None]
    errors: list[str | None]
    hashes: list[str]
    sizes: NDArray[np.int32]


class Pipeline:
    """Embeds the rows of a list. Several threads may have parts of it embedded at once.

    Args:
        listing: The rows.
        plan: How they become vectors.
        embedder: Makes the vectors.
    """

    def __init__(self, listing: Listing, plan: Plan, embedder: Embedder) -> None:
        self._listing = listing
        self._plan = plan
        self._embedder = embedder
        self._threads = embedder.threads
        self._reader = RowReader(listing.kind, plan.column)
        image, preparation = embedder.subject.image, plan.preparation
        self._decoder = (
            Decoder(replace(image, preparation=preparation), invert=plan.invert)
            if image is not None and preparation is not None
            else None
        )
        self._specs = embedder.subject.inputs
        # What rows of arrays have to have in common, to share a batch.
        self._form = self._first_form() if listing.kind is Kind.ARRAYS else None
        self._pool = ThreadPoolExecutor(self._threads, "embed")

    def close(self) -> None:
        """Waits for what is under way; nothing more is begun."""
        self._pool.shutdown(cancel_futures=True)

    def embed(self, rows: range) -> Iterator[Embedded]:
        """Yields the vectors of some rows, batch by batch, in order.

        Args:
            rows: They begin at a multiple of the batch's rows.

        Raises:
            ForwardpassError: The model could not be asked, or takes none of a batch's rows.
            JobError: The model has become another.
        """
        size = self._plan.batch_rows
        waiting: deque[Future[Embedded]] = deque()
        try:
            for start in range(rows.start, rows.stop, size):
                batch = range(start, min(start + size, rows.stop))
                waiting.append(self._pool.submit(self._embed, batch))
                if len(waiting) > self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _embed(self, rows: range) -> Embedded:
        batch = self._read([self._listing[row] for row in rows])
        good = [place for place, value in enumerate(batch.values) if value is not None]
        dimension = self._embedder.subject.space.dimension
        vectors = np.full((len(rows), dimension), np.nan, np.float32)
        inverted: list[int] = []
        if good:
            inputs = self._fill(batch.values)
            try:
                vectors[good] = self._run(inputs)[good]
            except InvalidInput as error:
                self._embed_one_by_one(inputs, good, batch, vectors, error)
            for place in good:
                if batch.errors[place] is None and not np.isfinite(vectors[place]).all():
                    batch.errors[place] = "the model's vector has numbers that are not finite"
                    vectors[place] = np.nan
            ground = self._embedder.subject.ground
            if self._decoder is not None and ground is not None:
                found = are_inverted(inputs[good], ground)
                inverted = [
                    rows[place] for place, is_one in zip(good, found, strict=True) if is_one
                ]
        return Embedded(rows, vectors, batch.errors, batch.hashes, batch.sizes, inverted)

    def _read(self, rows: list[Row]) -> _Batch:
        batch = _Batch([], [], [], np.zeros((len(rows), 2), np.int32))
        for place, row in enumerate(rows):
            value: Array | str | None = None
            digest, failure = "", None
            try:
                data = self._reader.read(row)
                digest = data.sha256
                if self._decoder is None:
                    assert not isinstance(data.value, bytes)
                    value = data.value
                    self._check_form(value)
                else:
                    assert isinstance(data.value, bytes)
                    picture = self._decoder.decode(data.value)
                    value = picture.pixels
                    batch.sizes[place] = picture.width, picture.height
            except RowError as error:
                value, failure = None, str(error)
            batch.values.append(value)
            batch.errors.append(failure)
            batch.hashes.append(digest)
        return batch

    def _first_form(self) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Returns shape and type of the first row that can be read."""
        for row in self._listing:
            try:
                value = self._reader.read(row).value
            except RowError:
                continue
            assert isinstance(value, np.ndarray)
            return value.shape, value.dtype
        return None

    def _check_form(self, value: Array | str) -> None:
        if isinstance(value, str) or self._form is None:
            return
        if (value.shape, value.dtype) != self._form:
            shape, dtype = self._form
            raise RowError(
                f"it is {value.dtype} of shape {value.shape}, and the first row {dtype} of {shape}"
            )

    def _fill(self, values: list[Array | str | None]) -> Array:
        """Returns a whole batch, with zeros for rows that are not there."""
        size = self._plan.batch_rows
        first = next(value for value in values if value is not None)
        if isinstance(first, str):
            texts = [value if isinstance(value, str) else "" for value in values]
            return np.array([*texts, *[""] * (size - len(texts))], object)
        filled = np.zeros((size, *first.shape), first.dtype)
        for place, value in enumerate(values):
            if value is not None:
                filled[place] = value
        return as_typed(self._plan.input, filled, lambda: self._specs)

    def _run(self, inputs: Array) -> NDArray[np.float32]:
        vectors = self._embedder.embed(self._plan.input, inputs)
        return unit(vectors) if self._plan.normalize else vectors

    def _embed_one_by_one(
        self,
        inputs: Array,
        good: list[int],
        batch: _Batch,
        vectors: NDArray[np.float32],
        error: InvalidInput,
    ) -> None:
        """Finds the rows that the model does not take, and embeds the others without them.

        Raises:
            InvalidInput: It takes none.
        """
        taken = inputs.copy()
        blank = "" if inputs.dtype.kind == "O" else 0
        for place in good:
            alone = inputs.copy()
            alone[[other for other in range(len(inputs)) if other != place]] = blank
            try:
                self._run(alone)
            except InvalidInput as refused:
                batch.errors[place] = refused.message
                taken[place] = blank
        rest = [place for place in good if batch.errors[place] is None]
        if not rest:
            raise error
        vectors[rest] = self._run(taken)[rest]
