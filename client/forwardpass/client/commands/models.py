"""`forwardpass models`: what is served, in one table, or everything about one model."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from forwardpass.client.card import Card, TensorSpec
from forwardpass.client.commands.connection import Connection, split_model
from forwardpass.client.commands.display import console, print_json
from forwardpass.client.models import Model, ModelSummary


def run(connection: Connection, name: str | None, *, as_json: bool) -> None:
    with connection.open() as client:
        if name is None:
            summaries = client.models()
            if as_json:
                print_json(summaries)
            else:
                console().print(_overview(summaries))
            return
        model = client.model(*split_model(name))
    if as_json:
        print_json(model)
    else:
        _print_model(console(), model)


def _overview(summaries: Iterable[ModelSummary]) -> Table:
    table = Table("model", "version", "state", "calls", "description")
    for summary in summaries:
        table.add_row(
            summary.name,
            " ".join([str(summary.version), *summary.version_labels]),
            summary.state,
            ", ".join(summary.calls),
            summary.state_reason or summary.description,
        )
    return table


def _print_model(screen: Console, model: Model) -> None:
    screen.print(_pairs(f"{model.summary.name} version {model.summary.version}", _facts(model)))
    screen.print(_signature(model))
    if model.card:
        screen.print(_pairs("card", _card_facts(model.card)))
        if model.card.metrics:
            metrics = ((name, f"{value:.4g}") for name, value in model.card.metrics.items())
            screen.print(_pairs("metrics", metrics))
    if model.batch_curve:
        table = Table("rows", "ms a run", "rows/s", title="speed on this server")
        for rows, seconds in model.batch_curve.items():
            rate = f"{rows / seconds:,.0f}" if seconds else ""
            table.add_row(str(rows), f"{seconds * 1e3:.3f}", rate)
        screen.print(table)


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    summary, golden = model.summary, model.golden
    yield "state", ": ".join(filter(None, (summary.state, summary.state_reason)))
    yield "labels", ", ".join(summary.version_labels)
    yield "calls", ", ".join(summary.calls)
    yield "digest", model.digest
    if golden.rows:
        source = model.card.golden_source if model.card else "torch"
        verdict = f"agree with {source}" if golden.passed else f"DIFFER from {source}"
        yield (
            "golden rows",
            f"{golden.rows} {verdict}, greatest difference {golden.max_absolute_error:.3g}",
        )
    batching = "on" if model.batching.enabled else "off"
    yield "batching", ": ".join(filter(None, (batching, model.batching.reason)))
    if apart := model.row_independence:
        yield "rows", f"{apart.rows} in one run equal each alone within {apart.difference:.1g}"
    yield "providers", ", ".join(model.providers)
    for space in model.embedding_spaces:
        yield f"space of {space.output}", f"{space.space_id}, {space.dimension} numbers a vector"


def _card_facts(card: Card) -> Iterator[tuple[str, str]]:
    yield "description", card.description
    yield "recipe", card.recipe
    yield "reference", card.reference
    yield "parameters", f"{card.parameters:,}"
    if card.data:
        rows = f"{card.data.train_rows:,} to learn from, {card.data.test_rows:,} to test on"
        yield "data", f"{card.data.name}: {rows}"
        yield "data from", ", ".join(filter(None, (card.data.origin, card.data.license)))
    if card.data and card.data.left_out:
        counts = sorted(card.data.left_out.items())
        parts = (f"{count:,} {what}{'s' if count > 1 else ''}" for what, count in counts)
        yield "left out", ", ".join(parts)
    if card.data and (pixels := card.data.pixels):
        ground = f"{pixels.ground_mean:.2f} ± {pixels.ground_deviation:.2f}"
        grey = f"{pixels.mean:.2f} ± {pixels.deviation:.2f}"
        yield "learned from", f"grounds of {ground}, pixels of {grey}; 0 is black, 1 white"
    if card.image:
        kind = "greyscale" if card.image.channels == 1 else "RGB"
        size = f"{card.image.width} x {card.image.height}"
        yield "images", f"{kind}, {size}, {card.image.preparation}"
    # A character that prints as nothing is shown as it is written in Python.
    shown = (label if label.strip() else repr(label) for label in card.labels)
    yield "classes", ", ".join(shown)
    if card.judge:
        yield "judged by", f"{card.judge.name} version {card.judge.version}"
    yield "seed", str(card.seed) + (f", on {card.threads} threads" if card.threads else "")
    yield "made with", ", ".join(f"{name} {version}" for name, version in card.versions.items())


def _signature(model: Model) -> Table:
    table = Table("", "name", "type", "shape", "role", title="signature")
    for side, specs in (("in", model.signature.inputs), ("out", model.signature.outputs)):
        for spec in specs:
            table.add_row(side, spec.name, spec.dtype, _shape(spec), spec.role)
    return table


def _shape(spec: TensorSpec) -> str:
    return "(" + ", ".join("any" if extent < 0 else str(extent) for extent in spec.shape) + ")"


def _pairs(title: str, facts: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column()
    # A digest is of use only whole.
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, value)
    return table
