"""`forwardpass embed` into one file, or none: pictures, texts or arrays to vectors, and to their
nearest neighbours.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from forwardpass.client.commands.display import console, print_json, progress, tell_warning
from forwardpass.client.commands.exit_code import PARTIAL
from forwardpass.client.commands.left_out import tell_left_out
from forwardpass.client.commands.neighbours import (
    find_neighbours,
    neighbour_lists,
    neighbour_picture,
    neighbour_table,
)
from forwardpass.client.commands.vector_file import VectorFile, check_kind, vector_file
from forwardpass.client.jobs.embedder import OpenEmbedder, Subject
from forwardpass.client.jobs.listing import Kind, Listing
from forwardpass.client.jobs.pipeline import Pipeline, Plan
from forwardpass.client.jobs.plan import Wishes, plan_for, space_for, takes
from forwardpass.client.jobs.sources import Sources, list_rows, refused
from forwardpass.client.polarity import describe
from forwardpass.client.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class Options:
    """What to make of the vectors.

    Attributes:
        out: A .parquet or .npy file to write.
        neighbours: How many nearest to show for some rows.
        grid: A .png to draw them in.
        wishes: What is asked of the vectors.
    """

    out: Path | None
    neighbours: int
    grid: Path | None
    wishes: Wishes


@dataclass(slots=True)
class _Tally:
    """What a run has come to; vectors are kept only where neighbours are asked for."""

    good: list[int] = field(default_factory=list)
    inverted: list[int] = field(default_factory=list)
    failed: int = 0
    first_error: str = ""
    vectors: list[NDArray[np.float32]] = field(default_factory=list)


def run(model: OpenEmbedder, sources: Sources, options: Options, *, as_json: bool) -> None:
    """Embeds everything that is named; rows come in the order in which they are."""
    _check(options)
    started = time.monotonic()
    embedder = model(None)
    try:
        subject = embedder.subject
        listing = list_rows(sources, takes(subject), subject.space.model, in_order=True)
        if options.grid and listing.kind is not Kind.PICTURES:
            _refuse("there are no images to draw", "--neighbours-grid")
        plan = plan_for(listing, subject, options.wishes)
        subject = replace(subject, space=space_for(subject, plan))
        pipeline = Pipeline(listing, plan, embedder)
        try:
            tally = _embed(pipeline, listing, subject, plan, options)
        finally:
            pipeline.close()
    finally:
        embedder.close()
    warn_of_polarity(listing, tally.inverted, subject, inverted=plan.invert)
    seconds = time.monotonic() - started
    _tell(listing, subject, tally, options, seconds, as_json=as_json)
    if tally.failed or refused(listing):
        raise typer.Exit(PARTIAL)


def warn_of_polarity(
    listing: Listing, rows: Sequence[int], subject: Subject, *, inverted: bool
) -> None:
    """Says which pictures the model is likely to have misread."""
    if subject.ground is None or not rows:
        return
    title = f"{subject.space.model} version {subject.space.version}"
    names = [listing[row].title for row in rows]
    tell_warning(describe(names, title, subject.ground, inverted=inverted))


def _check(options: Options) -> None:
    """Refuses, before any work, what could not be finished."""
    if not options.out and not options.neighbours:
        _refuse("the vectors would go nowhere: give a folder or a file, or --neighbours", "--out")
    if options.out:
        check_kind(options.out)
    if options.grid and options.grid.suffix != ".png":
        _refuse(f"{options.grid} does not end in .png", "--neighbours-grid")


def _refuse(message: str, option: str) -> None:
    raise typer.BadParameter(message, param_hint=option)


def _embed(
    pipeline: Pipeline, listing: Listing, subject: Subject, plan: Plan, options: Options
) -> _Tally:
    tally = _Tally()
    with _writer(subject, plan, options) as writer, progress() as bar:
        task = bar.add_task("embedding", total=len(listing))
        for part in pipeline.embed(range(len(listing))):
            if writer:
                writer.write(part, [listing[row] for row in part.rows])
            for row, error in zip(part.rows, part.errors, strict=True):
                if error is None:
                    tally.good.append(row)
                else:
                    tally.failed += 1
                    tally.first_error = tally.first_error or f"{listing[row].title}: {error}"
            tally.inverted += part.inverted
            if options.neighbours:
                tally.vectors.append(part.vectors[[error is None for error in part.errors]])
            bar.advance(task, len(part.rows))
    return tally


@contextmanager
def _writer(subject: Subject, plan: Plan, options: Options) -> Iterator[VectorFile | None]:
    if options.out is None:
        yield None
        return
    space = subject.space
    facts = space.facts() | plan.facts()
    with whole_file(options.out) as file:
        writer = vector_file(options.out, file, space.dimension, facts)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.finish()


def _tell(
    listing: Listing,
    subject: Subject,
    tally: _Tally,
    options: Options,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    names = _names(listing, tally.good)
    found = None
    if options.neighbours and len(names) > 1:
        found = find_neighbours(np.concatenate(tally.vectors), options.neighbours)
        if options.grid:
            paths = [
                Path(listing[row].path.decode("utf-8", "surrogateescape")) for row in tally.good
            ]
            with whole_file(options.grid) as file:
                file.write(neighbour_picture(found, paths))
    if as_json:
        print_json(
            {
                **_summary(listing, subject, options, tally, seconds),
                "neighbours": neighbour_lists(found, names) if found else [],
            }
        )
        return
    if found:
        console().print(neighbour_table(found, names))
    elif options.neighbours:
        typer.echo("there are no neighbours: fewer than two vectors", err=True)
    written = [str(path) for path in (options.out, found and options.grid) if path]
    done = len(tally.good)
    typer.echo(
        f"{done} ok, {tally.failed} failed in {seconds:.1f} s ({done / seconds:.0f}/s), by "
        f"{subject.space.model} version {subject.space.version}"
        + (f"; wrote {' and '.join(written)}" if written else "")
    )
    if tally.failed:
        typer.echo(f"first failure: {tally.first_error}", err=True)
    tell_left_out(listing)


def _names(listing: Listing, rows: Sequence[int]) -> list[str]:
    """Returns what people know the rows by: a text is its own name."""
    if listing.kind is Kind.TEXTS:
        return [listing[row].name or listing[row].title for row in rows]
    if listing.kind is Kind.ARRAYS and len(listing.paths) == 1:
        return [str(listing[row].place) for row in rows]
    return [listing[row].title for row in rows]


def _summary(
    listing: Listing, subject: Subject, options: Options, tally: _Tally, seconds: float
) -> dict[str, object]:
    space = subject.space
    return {
        "model": space.model,
        "version": space.version,
        "space_id": space.space_id,
        "dimension": space.dimension,
        "ok": len(tally.good),
        "failed": tally.failed,
        "first_error": tally.first_error,
        "left_out": len(listing.left_out),
        "skipped": listing.skipped,
        "seconds": seconds,
        "file": str(options.out) if options.out else None,
    }
