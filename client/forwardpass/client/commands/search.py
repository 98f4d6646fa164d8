"""What the vectors of a job's folder tell: nearest rows, duplicates, a map."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from forwardpass.client.commands.connection import Connection
from forwardpass.client.commands.display import console, print_json
from forwardpass.client.commands.embed_model import open_model
from forwardpass.client.commands.neighbours import thumbnails
from forwardpass.client.jobs.embedder import Embedder
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.geometry import unit
from forwardpass.client.jobs.listing import Kind, Listing
from forwardpass.client.jobs.pipeline import Pipeline, Plan
from forwardpass.client.jobs.sources import Sources, Takes, list_rows
from forwardpass.client.jobs.vectors import Identity, JobVectors
from forwardpass.client.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Seconds that a server may be away: somebody waits.
_WAIT = 5.0
# Groups that are printed.
_SHOWN = 20
# Labels that have a colour of their own.
_COLOURS = 20


@dataclass(frozen=True, slots=True)
class QueryModel:
    """Embeds queries that a job has not.

    Attributes:
        connection: The server.
        model: The model; the job's where None.
        is_served: Whether a server was named.
    """

    connection: Connection
    model: str | None
    is_served: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    """What is asked for: a vector, and a row of the job that it is of, if any."""

    title: str
    vector: NDArray[np.float32]
    number: int | None


def neighbours(
    path: Path,
    queries: Sequence[str],
    k: int,
    grid: Path | None,
    model: QueryModel,
    *,
    approximate: bool,
    as_json: bool,
) -> None:
    """Prints the rows of a job that are nearest to queries."""
    folder = JobFolder.open(path)
    if grid and (grid.suffix != ".png" or folder.spec.kind is not Kind.PICTURES):
        raise typer.BadParameter("it draws pictures, into a .png", param_hint="--grid")
    vectors = JobVectors(folder)
    asked = _queries(folder, vectors, queries, model)
    # One more, as a row of the job is nearest to itself.
    stacked, most = np.stack([query.vector for query in asked]), k + 1
    if approximate:
        from forwardpass.client.jobs.nearest_index import NearestIndex

        numbers, cosines = NearestIndex(folder, vectors).nearest(stacked, most)
    else:
        numbers, cosines = vectors.nearest(stacked, most)
    found = []
    for query, row, angles in zip(asked, numbers.tolist(), cosines.tolist(), strict=True):
        kept = [pair for pair in zip(row, angles, strict=True) if pair[0] != query.number][:k]
        identities = vectors.identify([number for number, _ in kept])
        found.append((query, list(zip(identities, [angle for _, angle in kept], strict=True))))
    if as_json:
        print_json(
            [
                {
                    "query": query.title,
                    "nearest": [
                        {"input": row.title, "label": row.label, "cosine": angle}
                        for row, angle in nearest
                    ],
                }
                for query, nearest in found
            ]
        )
    else:
        console().print(_table(found))
    if grid:
        _draw_grid(grid, found)


def duplicates(path: Path, cosine: float, *, as_json: bool) -> None:
    """Prints groups of rows that are the same, or nearly."""
    vectors = JobVectors(JobFolder.open(path))
    same = vectors.same_content()
    alike = vectors.same_vectors(cosine)
    if as_json:
        print_json(
            {
                "content": [[row.title for row in group] for group in same],
                "vectors": [[row.title for row in group] for group in alike],
            }
        )
        return
    for groups, what in ((same, "the same bytes"), (alike, f"a cosine of {cosine} or more")):
        rows = sum(map(len, groups))
        typer.echo(f"{len(groups)} groups of {rows} rows with {what}")
        for group in groups[:_SHOWN]:
            typer.echo("  " + ", ".join(row.title for row in group))
        if len(groups) > _SHOWN:
            typer.echo(f"  and {len(groups) - _SHOWN} more (--json prints all)")


def draw_map(path: Path, out: Path, method: str, rows: int) -> None:
    """Draws vectors of a job on a plane."""
    if out.suffix != ".png":
        raise typer.BadParameter(f"{out} does not end in .png", param_hint="--out")
    import matplotlib as mpl
    import sklearn.manifold

    vectors = JobVectors(JobFolder.open(path))
    numbers, sample = vectors.sample(rows)
    labels = [row.label for row in vectors.identify(numbers)]
    points = _principal(sample)
    if method == "tsne" and len(points) > 3:
        tsne = sklearn.manifold.TSNE(
            init=points[:, :2], perplexity=min(30, (len(points) - 1) / 3), random_state=0
        )
        points = tsne.fit_transform(sample)
    with mpl.rc_context(mpl.rcParamsDefault):
        figure = _scatter(points, labels, f"{len(points):,} of {len(vectors):,} vectors, {method}")
        with whole_file(out) as file:
            figure.savefig(file, format="png", dpi=120)
    typer.echo(f"wrote {out}")


def _queries(
    folder: JobFolder, vectors: JobVectors, queries: Sequence[str], model: QueryModel
) -> list[_Query]:
    numbers = [vectors.find(os.fsencode(query)) for query in queries]
    others = [query for query, number in zip(queries, numbers, strict=True) if number is None]
    embedded = iter(_embed(folder, others, model) if others else [])
    return [
        _Query(query, next(embedded) if number is None else vectors.vector(number), number)
        for query, number in zip(queries, numbers, strict=True)
    ]


def _embed(
    folder: JobFolder, queries: Sequence[str], model: QueryModel
) -> list[NDArray[np.float32]]:
    """Returns the vectors, of length 1, of what the job has not embedded."""
    spec = folder.spec
    opened = open_model(
        model.connection, model.model or spec.space.model, is_served=model.is_served, wait=_WAIT
    )
    embedder = opened(spec.space)
    try:
        if spec.kind is Kind.TEXTS:
            return list(unit(_embed_texts(embedder, spec.plan, queries)))
        listing = _listing(spec.kind, queries)
        pipeline = Pipeline(listing, spec.plan, embedder)
        try:
            parts = list(pipeline.embed(range(len(listing))))
        finally:
            pipeline.close()
    finally:
        embedder.close()
    for part in parts:
        for row, error in zip(part.rows, part.errors, strict=True):
            if error is not None:
                raise typer.BadParameter(f"{queries[row]}: {error}", param_hint="QUERY")
    return list(unit(np.concatenate([part.vectors for part in parts])))


def _embed_texts(embedder: Embedder, plan: Plan, texts: Sequence[str]) -> NDArray[np.float32]:
    """Returns the vectors of texts, in batches that are as full as the job's."""
    size = plan.batch_rows
    parts = []
    for start in range(0, len(texts), size):
        batch = list(texts[start : start + size])
        filled = np.array(batch + [""] * (size - len(batch)), object)
        parts.append(embedder.embed(plan.input, filled)[: len(batch)])
    return np.concatenate(parts)


def _listing(kind: Kind, queries: Sequence[str]) -> Listing:
    sources = Sources([os.fsencode(query) for query in queries])
    able = Takes(kind is Kind.PICTURES, texts=False, arrays=kind is Kind.ARRAYS)
    listing = list_rows(sources, able, "the model", in_order=True)
    if len(listing) != len(queries):
        raise typer.BadParameter("each is one picture, or an array of one row", param_hint="QUERY")
    return listing


def _table(found: Sequence[tuple[_Query, Sequence[tuple[Identity, float]]]]) -> Table:
    table = Table("query", "nearest", "label", "cosine")
    for query, nearest in found:
        for place, (row, cosine) in enumerate(nearest):
            table.add_row(
                "" if place else query.title,
                row.title,
                row.label,
                f"{cosine:.3f}",
                end_section=place == len(nearest) - 1,
            )
    return table


def _draw_grid(out: Path, found: Sequence[tuple[_Query, Sequence[tuple[Identity, float]]]]) -> None:
    paths = []
    for query, nearest in found:
        paths += [query.title, *(os.fsdecode(row.path) for row, _ in nearest)]
    with whole_file(out) as file:
        file.write(thumbnails([Path(path) for path in paths], 1 + len(found[0][1])))


def _principal(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns vectors along the two axes of most variance, (rows, 2)."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    points: NDArray[np.float32] = centred @ axes[:2].T
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points


def _scatter(points: NDArray[np.float32], labels: Sequence[str], title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot(title=title)
    names, counts = np.unique(labels, return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")][:_COLOURS]
    for name in [*sorted(shown), None]:
        chosen = np.array([(label == name) if name else label not in shown for label in labels])
        if chosen.any():
            axes.scatter(
                points[chosen, 0],
                points[chosen, 1],
                s=8,
                label=name or ("others" if name is None else None),
                color="lightgrey" if name is None else None,
            )
    if len(shown) > 1:
        axes.legend(markerscale=2, fontsize="small")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure
