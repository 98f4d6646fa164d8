"""A job's shards, one after another until all are done, by whoever works for it."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import numpy as np
from pyarrow import parquet

from forwardpass.client.jobs.embedder import Embedder, OpenEmbedder
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.folder import JobFolder, Shard
from forwardpass.client.jobs.pipeline import Embedded, Pipeline
from forwardpass.client.jobs.tables import vectors_of

# In one process: while one shard is written, the next is under way.
_SHARDS_AT_ONCE = 2


class Worker:
    """Does shards of one job, in one process; several threads may have it do some at once.

    Args:
        folder: The job.
        embedder: Makes its vectors.
        advance: Called with the rows that are done, as they are.
    """

    def __init__(
        self,
        folder: JobFolder,
        embedder: Embedder,
        advance: Callable[[Embedded], None] = lambda _embedded: None,
    ) -> None:
        self._folder = folder
        self._embedder = embedder
        self._advance = advance
        self._pipeline = Pipeline(folder.listing, folder.spec.plan, embedder)

    def do(self, number: int, *, again: bool = False) -> Shard:
        """Embeds the rows of a shard, and writes them.

        Args:
            number: Which shard.
            again: Whether to keep the batches of the file there that have no errors.
        """
        rows = self._folder.spec.rows_of(number)
        ranges = [rows]
        old = self._read(number) if again else None
        if old is not None:
            ranges = _with_errors(old, self._folder.spec.plan.batch_rows)
        parts: list[Embedded] = []
        for part in ranges:
            for embedded in self._pipeline.embed(part):
                self._advance(embedded)
                parts.append(embedded)
        return self._folder.write_shard(number, _joined(rows, parts, old))

    def close(self) -> None:
        """Ends what is under way."""
        self._embedder.close()
        self._pipeline.close()

    def _read(self, number: int) -> Embedded:
        """Returns what a shard's files hold."""
        folder = self._folder
        rows = folder.spec.rows_of(number)
        good = parquet.read_table(folder.vectors_file(number))
        bad = parquet.read_table(folder.errors_file(number))
        places = {(folder.listing[row].path, folder.listing[row].place): row for row in rows}
        size, dimension = len(rows), folder.spec.space.dimension
        old = Embedded(
            rows,
            np.full((size, dimension), np.nan, np.float32),
            [None] * size,
            [""] * size,
            np.zeros((size, 2), np.int32),
            [],
        )
        vectors = vectors_of(good)
        for index, row in enumerate(good.drop_columns(["embedding"]).to_pylist()):
            place = places[row["path"], row["place"]] - rows.start
            old.vectors[place] = vectors[index]
            old.hashes[place] = row["sha256"]
            old.sizes[place] = row["width"], row["height"]
        for row in bad.to_pylist():
            place = places[row["path"], row["place"]] - rows.start
            old.errors[place], old.hashes[place] = row["error"], row["sha256"]
        return old


@dataclass(frozen=True, slots=True)
class Task:
    """A shard to be done in another process.

    Attributes:
        folder: The job's.
        open: Gets at the model.
        number: Which shard.
        again: As for `Worker.do`.
    """

    folder: Path
    open: OpenEmbedder
    number: int
    again: bool


_workers: dict[tuple[Path, OpenEmbedder], Worker] = {}
_making = Lock()


def do_task(task: Task) -> Shard:
    """Does one shard in this process, which keeps model and list for the next."""
    key = task.folder, task.open
    with _making:
        worker = _workers.get(key)
        if worker is None:
            folder = JobFolder.open(task.folder)
            worker = _workers[key] = Worker(folder, task.open(folder.spec.space))
    return worker.do(task.number, again=task.again)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another executor, such as a pool of processes or a cluster.

    Attributes:
        executor: Runs `do_task`; its machines see the job's folder and its inputs.
        open: Gets at the model there.
        at_once: How many shards it has to do at a time.
    """

    executor: Executor
    open: OpenEmbedder
    at_once: int

    def close(self) -> None:
        """Ends the executor."""
        self.executor.shutdown()


def run(
    folder: JobFolder,
    worker: Worker | Elsewhere,
    shards: Iterable[int],
    *,
    again: bool = False,
    stop: Event,
    done: Callable[[Shard], None] = lambda _shard: None,
) -> None:
    """Does shards of a job; returns when they are done, or those in hand after `stop`.

    Args:
        folder: The job.
        worker: Who does them.
        shards: Which.
        again: As for `Worker.do`.
        stop: Once it is set no other shard is begun.
        done: Called with each shard that is.

    Raises:
        JobError: There is no room left, or the model has become another.
        ForwardpassError: The model could not be asked.
        OSError: The folder cannot be written.
    """
    with _submitter(folder, worker, again=again) as submit:
        at_once = _SHARDS_AT_ONCE if isinstance(worker, Worker) else worker.at_once
        try:
            for shard in _done(submit, list(shards), at_once, stop):
                folder.add(shard)
                done(shard)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise JobError(
                f"there is no room left for {folder.path}: {os.strerror(error.errno)}. What is "
                "done stays; make room, and repeat the command"
            ) from None


@contextmanager
def _submitter(
    folder: JobFolder, worker: Worker | Elsewhere, *, again: bool
) -> Iterator[Callable[[int], Future[Shard]]]:
    """Gives what has a shard done; after an error what is under way is ended."""
    if isinstance(worker, Elsewhere):
        path = folder.path.absolute()
        yield lambda number: worker.executor.submit(do_task, Task(path, worker.open, number, again))
        return
    with ThreadPoolExecutor(_SHARDS_AT_ONCE, "shard") as pool:
        try:
            yield lambda number: pool.submit(worker.do, number, again=again)
        except BaseException:
            # What waits for a server is not waited for.
            worker.close()
            raise


def _done(
    submit: Callable[[int], Future[Shard]], shards: list[int], at_once: int, stop: Event
) -> Iterator[Shard]:
    """Has shards done, some at a time, and yields each; no more are begun after `stop`."""
    waiting = shards[::-1]
    under_way: set[Future[Shard]] = set()
    try:
        while True:
            while waiting and len(under_way) < at_once and not stop.is_set():
                under_way.add(submit(waiting.pop()))
            if not under_way:
                return
            ready, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ready:
                yield future.result()
    finally:
        for future in under_way:
            future.cancel()


def _with_errors(old: Embedded, batch_rows: int) -> list[range]:
    """Returns the batches of a shard that have errors."""
    ranges = []
    for start in range(old.rows.start, old.rows.stop, batch_rows):
        batch = range(start, min(start + batch_rows, old.rows.stop))
        if any(old.errors[row - old.rows.start] is not None for row in batch):
            ranges.append(batch)
    return ranges


def _joined(rows: range, parts: list[Embedded], old: Embedded | None) -> Embedded:
    """Returns a shard's rows: those of its batches, over those that it had."""
    if old is None:
        return Embedded(
            rows,
            np.concatenate([part.vectors for part in parts]),
            [error for part in parts for error in part.errors],
            [digest for part in parts for digest in part.hashes],
            np.concatenate([part.sizes for part in parts]),
            [],
        )
    for part in parts:
        begin, end = part.rows.start - rows.start, part.rows.stop - rows.start
        old.vectors[begin:end] = part.vectors
        old.errors[begin:end] = part.errors
        old.hashes[begin:end] = part.hashes
        old.sizes[begin:end] = part.sizes
    return old
