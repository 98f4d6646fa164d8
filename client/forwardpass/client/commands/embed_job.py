"""`forwardpass embed` into a folder: a job that can be killed and goes on."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType

import typer

from forwardpass.client.commands.embed import warn_of_polarity
from forwardpass.client.commands.exit_code import FAILED, PARTIAL
from forwardpass.client.commands.job_progress import JobProgress
from forwardpass.client.commands.left_out import tell_left_out
from forwardpass.client.jobs.check import check, find_parts, merge, part_folder
from forwardpass.client.jobs.embedder import Embedder, OpenEmbedder
from forwardpass.client.jobs.folder import FolderLock, JobFolder, Shard
from forwardpass.client.jobs.listing import Changes, Kind, compare
from forwardpass.client.jobs.pipeline import Embedded
from forwardpass.client.jobs.plan import Wishes, check_same, spec_for, takes
from forwardpass.client.jobs.run import Elsewhere, Worker, run
from forwardpass.client.jobs.sources import Sources, Takes, list_rows, refused

# What a shell gives a program that a signal has ended.
_SIGNALLED = 128
# Problems of a folder that are printed.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a job is done.

    Attributes:
        out: Its folder, or that of all its parts.
        wishes: What is asked of the vectors.
        retry_errors: Whether to embed the rows again that have errors, and nothing else.
        ray: Whether to have a Ray cluster do it.
    """

    out: Path
    wishes: Wishes
    retry_errors: bool
    ray: bool


def start(
    model: str, opened: OpenEmbedder, sources: Sources, options: JobOptions, *, as_json: bool
) -> None:
    """Begins a job, or goes on with it."""
    out = part_folder(options.out, options.wishes.part)
    changes: Changes | None = None
    embedder: Embedder | None = None
    with FolderLock(out), JobProgress(as_json=as_json) as progress:
        if JobFolder.exists(out):
            folder = JobFolder.open(out)
            check_same(folder.spec, model, options.wishes)
            changes = _changes(folder, sources)
            progress.resumed(folder, changes)
        else:
            if options.retry_errors:
                raise typer.BadParameter(f"{out} holds no job yet", param_hint="--retry-errors")
            embedder = opened(None)
            folder = _begin(out, embedder, sources, options)
            progress.listed(folder)
        _work(folder, embedder, opened, options, progress)
        progress.finished(folder)
        if not as_json:
            tell_left_out(folder.listing)
        if folder.errors or refused(folder.listing):
            raise typer.Exit(PARTIAL)
        if changes and changes.new:
            raise typer.Exit(PARTIAL)


def check_folder(path: Path, *, as_json: bool) -> None:
    """Says whether a job's folder is complete."""
    folder = JobFolder.open(path)
    found = check(folder)
    progress = JobProgress(as_json=as_json)
    progress.checked(folder, found)
    for problem in found.problems[:_SHOWN]:
        typer.echo(f"wrong: {problem}", err=True)
    if len(found.problems) > _SHOWN:
        typer.echo(f"wrong: and {len(found.problems) - _SHOWN} more", err=True)
    if found.problems:
        raise typer.Exit(FAILED)
    if not as_json:
        tell_left_out(folder.listing)
    if found.errors or refused(folder.listing):
        raise typer.Exit(PARTIAL)


def merge_parts(path: Path, parts: Sequence[Path], *, as_json: bool) -> None:
    """Makes one job of its parts."""
    with FolderLock(path):
        folder = merge(path, list(parts) or find_parts(path))
    progress = JobProgress(as_json=as_json)
    progress.finished(folder)
    if folder.errors or refused(folder.listing):
        raise typer.Exit(PARTIAL)


def _begin(out: Path, embedder: Embedder, sources: Sources, options: JobOptions) -> JobFolder:
    subject = embedder.subject
    listing = list_rows(sources, takes(subject), subject.space.model)
    return JobFolder.create(out, spec_for(listing, subject, options.wishes), listing)


def _changes(folder: JobFolder, sources: Sources) -> Changes:
    """Returns what has changed where the rows come from since they were listed."""
    kind = folder.spec.kind
    able = Takes(kind is Kind.PICTURES, kind is Kind.TEXTS, kind is Kind.ARRAYS)
    now = list_rows(sources, able, folder.spec.space.model, may_be_empty=True)
    return compare(folder.listing, now)


def _work(
    folder: JobFolder,
    embedder: Embedder | None,
    opened: OpenEmbedder,
    options: JobOptions,
    progress: JobProgress,
) -> None:
    """Does what is not done yet, or what has errors."""
    shards = _to_do(folder, retry_errors=options.retry_errors)
    if not shards or options.ray:
        # It is opened where the work is done, if there is any.
        if embedder is not None:
            embedder.close()
        embedder = None
    if not shards:
        folder.write_manifest()
        return
    inverted: list[int] = []

    def advance(embedded: Embedded) -> None:
        inverted.extend(embedded.inverted)
        progress.advance(len(embedded.rows))

    def done(shard: Shard) -> None:
        # Of what is done elsewhere nothing is known before.
        if options.ray:
            progress.advance(shard.vectors + shard.errors)

    worker: Worker | Elsewhere
    if options.ray:
        worker = _cluster(opened)
    else:
        embedder = embedder or opened(folder.spec.space)
        worker = Worker(folder, embedder, advance)
    progress.begin(folder, shards)
    try:
        with _stopped_by_signals() as stop:
            run(folder, worker, shards, again=options.retry_errors, stop=stop.event, done=done)
    finally:
        folder.write_manifest()
        worker.close()
    if embedder is not None:
        warn_of_polarity(
            folder.listing, sorted(inverted), embedder.subject, inverted=folder.spec.plan.invert
        )
    if stop.signal and len(folder.shards) < len(folder.spec.shards):
        progress.interrupted(folder)
        raise typer.Exit(_SIGNALLED + stop.signal)


def _to_do(folder: JobFolder, *, retry_errors: bool) -> list[int]:
    """Returns the shards that are not done, or those that have errors and are to be done again."""
    if not retry_errors:
        return [number for number in folder.spec.shards if number not in folder.shards]
    shards = [number for number, shard in folder.shards.items() if shard.errors]
    folder.forget(shards)
    return shards


def _cluster(opened: OpenEmbedder) -> Elsewhere:
    from forwardpass.client.jobs.ray_executor import RayExecutor

    executor = RayExecutor()
    return Elsewhere(executor, opened, executor.at_once)


@dataclass(slots=True)
class _Stop:
    """Whether a signal has asked the job to end.

    Attributes:
        event: Set when one has.
        signal: Which; 0 for none.
    """

    event: Event
    signal: int = 0


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """Has SIGINT and SIGTERM ask for the end, and a second one bring it about."""
    stop = _Stop(Event())

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.signal:
            raise typer.Exit(_SIGNALLED + number)
        stop.signal = number
        stop.event.set()
        sys.stderr.write("finishing the shards in hand; once more to end at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
