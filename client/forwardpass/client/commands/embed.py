"""`forwardpass embed`: images or texts to vectors, in a file, and to their nearest neighbours."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from forwardpass.client.client import Client
from forwardpass.client.commands.connection import Connection, split_model
from forwardpass.client.commands.display import console, print_json, progress, tell_warning
from forwardpass.client.commands.embedding import embed_rows
from forwardpass.client.commands.exit_code import PARTIAL
from forwardpass.client.commands.neighbours import (
    find_neighbours,
    neighbour_lists,
    neighbour_picture,
    neighbour_table,
)
from forwardpass.client.commands.sources import ImageFiles, Source, open_source
from forwardpass.client.commands.vector_file import VectorFile, check_kind, vector_file
from forwardpass.client.commands.whole_file import whole_file
from forwardpass.client.errors import WrongTask
from forwardpass.client.models import Model, check_loaded
from forwardpass.client.polarity import describe, known_ground


@dataclass(frozen=True, slots=True)
class Options:
    """What to make of the vectors.

    Attributes:
        out: A .parquet or .npy file to write.
        normalize: Whether to scale each vector to length 1.
        neighbours: How many nearest to show for some rows.
        grid: A .png to draw them in.
        invert: Whether to embed the pictures' negatives.
    """

    out: Path | None
    normalize: bool
    neighbours: int
    grid: Path | None
    invert: bool


@dataclass(slots=True)
class _Tally:
    """What a run has come to; vectors are kept only where neighbours are asked for."""

    good: list[int] = field(default_factory=list)
    inverted: list[int] = field(default_factory=list)
    failed: int = 0
    first_error: str = ""
    vectors: list[NDArray[np.float32]] = field(default_factory=list)


def run(
    connection: Connection, inputs: Sequence[Path], model: str, options: Options, *, as_json: bool
) -> None:
    name, version = split_model(model)
    _check(options)
    started = time.monotonic()
    with connection.open() as client:
        known = client.model(name, version)
        check_loaded(known)
        if not known.embedding_spaces:
            raise WrongTask(f"{name} has no embedding output, so it gives no vectors")
        source = open_source(inputs, known, invert=options.invert)
        if options.grid and not isinstance(source, ImageFiles):
            _refuse("there are no images to draw", "--neighbours-grid")
        tally = _embed(client, known, source, options)
    _warn(known, source, tally, options)
    seconds = time.monotonic() - started
    names = [source.names[row] for row in tally.good]
    found = None
    if options.neighbours and len(names) > 1:
        found = find_neighbours(np.concatenate(tally.vectors), options.neighbours)
        if options.grid and isinstance(source, ImageFiles):
            picture = neighbour_picture(found, [source.paths[row] for row in tally.good])
            with whole_file(options.grid) as file:
                file.write(picture)
    if as_json:
        print_json(
            {
                **_summary(known, options, tally, seconds),
                "neighbours": neighbour_lists(found, names) if found else [],
            }
        )
    else:
        if found:
            console().print(neighbour_table(found, names))
        elif options.neighbours:
            typer.echo("there are no neighbours: fewer than two vectors", err=True)
        written = [str(path) for path in (options.out, found and options.grid) if path]
        _print(known, tally, seconds, written)
    if tally.failed:
        raise typer.Exit(PARTIAL)


def _check(options: Options) -> None:
    """Refuses, before any work, what could not be finished."""
    if not options.out and not options.neighbours:
        _refuse("the vectors would go nowhere: give a file, or --neighbours", "--out")
    if options.out:
        check_kind(options.out)
    if options.grid and options.grid.suffix != ".png":
        _refuse(f"{options.grid} does not end in .png", "--neighbours-grid")


def _refuse(message: str, option: str) -> None:
    raise typer.BadParameter(message, param_hint=option)


def _embed(client: Client, model: Model, source: Source, options: Options) -> _Tally:
    tally = _Tally()
    with _writer(model, options) as writer, progress() as bar:
        task = bar.add_task("embedding", total=len(source.names))
        for part in embed_rows(client, model, source, normalize=options.normalize):
            rows = slice(part.rows.start, part.rows.stop)
            if writer:
                writer.write(part, source.names[rows], source.labels[rows])
            for row, error in zip(part.rows, part.errors, strict=True):
                if error is None:
                    tally.good.append(row)
                else:
                    tally.failed += 1
                    tally.first_error = tally.first_error or f"{source.names[row]}: {error}"
            tally.inverted += part.inverted
            if options.neighbours:
                tally.vectors.append(part.vectors[[error is None for error in part.errors]])
            bar.advance(task, len(part.rows))
    return tally


def _warn(model: Model, source: Source, tally: _Tally, options: Options) -> None:
    """Says which pictures the model is likely to have misread."""
    ground = known_ground(model.card)
    if ground is None or not tally.inverted:
        return
    names = [source.names[row] for row in tally.inverted]
    title = f"{model.summary.name} version {model.summary.version}"
    tell_warning(describe(names, title, ground, inverted=options.invert))


@contextmanager
def _writer(model: Model, options: Options) -> Iterator[VectorFile | None]:
    if options.out is None:
        yield None
        return
    space = model.embedding_spaces[0]
    facts = {
        "forwardpass.model": model.summary.name,
        "forwardpass.version": str(model.summary.version),
        "forwardpass.digest": model.digest,
        "forwardpass.output": space.output,
        "forwardpass.space_id": space.space_id,
        "forwardpass.normalized": str(options.normalize).lower(),
    }
    with whole_file(options.out) as file:
        writer = vector_file(options.out, file, space.dimension, facts)
        try:
            yield writer
        finally:
            # After a failure too, when the file is thrown away: a Parquet writer left open would
            # write to it once it is closed.
            writer.finish()


def _print(model: Model, tally: _Tally, seconds: float, written: Sequence[str]) -> None:
    done = len(tally.good)
    typer.echo(
        f"{done} ok, {tally.failed} failed in {seconds:.1f} s ({done / seconds:.0f}/s), by "
        f"{model.summary.name} version {model.summary.version}"
        + (f"; wrote {' and '.join(written)}" if written else "")
    )
    if tally.failed:
        typer.echo(f"first failure: {tally.first_error}", err=True)


def _summary(model: Model, options: Options, tally: _Tally, seconds: float) -> dict[str, object]:
    space = model.embedding_spaces[0]
    return {
        "model": model.summary.name,
        "version": model.summary.version,
        "space_id": space.space_id,
        "dimension": space.dimension,
        "ok": len(tally.good),
        "failed": tally.failed,
        "first_error": tally.first_error,
        "seconds": seconds,
        "file": str(options.out) if options.out else None,
    }
