"""The page that every version has for people: report.html, one file that fetches and runs nothing.

It shows the card, the plots, and how to serve and call the model. Its text comes from whoever
published the model, so all of it is escaped; a policy in the page forbids scripts and anything that
is not in the file. Equal versions have equal pages: the page has no version number and no date.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, Golden
from forwardpass.trainer.display import number_text
from forwardpass.trainer.export.calls import describe_task, example_calls
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import DTYPES

REPORT_FILE = "report.html"
# A longer list of labels is folded away.
_MAX_LABELS = 40
_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


@dataclass(frozen=True, slots=True)
class _Markup:
    """Text that is HTML already; any other text is escaped."""

    html: str


_Text = str | _Markup


def make_report(
    name: str,
    card: pb.ModelCard,
    model: bytes,
    golden: Golden,
    plots: Mapping[str, bytes],
) -> str:
    """Returns the page of a version.

    Args:
        name: The model's.
        card: As it stands in the ONNX file.
        model: The ONNX file.
        golden: Inputs with the outputs that they must give.
        plots: PNG files by name.
    """
    sections = [
        _header(name, card),
        _tiles(card, model),
        _section("Metrics", _metrics(card)),
        _section("Plots", _plots(plots)),
        _section("Serve and call", _calls(name, card, golden)),
        _section("Signature", _signature(card)),
        _section("Labels", _labels(card.labels)),
        _section("How exact the ONNX file is", _exactness(card, golden)),
        _section("Data", _data(card.data) if card.HasField("data") else ""),
        _section("Provenance", _provenance(card, model)),
    ]
    return _PAGE.substitute(
        title=escape(f"{name}: model report"),
        style=(files("forwardpass.trainer.export") / "report.css").read_text(encoding="utf-8"),
        body="\n".join(section for section in sections if section),
    )


def _header(name: str, card: pb.ModelCard) -> str:
    lead = f'\n<p class="lead">{escape(card.description)}</p>' if card.description else ""
    kind = describe_task(card) + (", 8-bit integers" if card.HasField("quantization") else "")
    return f'<header>\n<p class="kind">{escape(kind)}</p>\n<h1>{escape(name)}</h1>{lead}\n</header>'


def _tiles(card: pb.ModelCard, model: bytes) -> str:
    """Returns what is asked for first: a metric and how large the model is."""
    facts = [("Parameters", f"{card.parameters:,}"), (MODEL_FILE, _size_text(len(model)))]
    if "accuracy" in card.metrics:
        facts.insert(0, ("Accuracy", number_text(card.metrics["accuracy"])))
    if card.labels:
        facts.append(("Labels", f"{len(card.labels):,}"))
    if card.HasField("data") and card.data.train_rows:
        facts.append(("Learned from", f"{card.data.train_rows:,} rows"))
    tiles = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(fact)}</dd></div>\n" for term, fact in facts
    )
    return f'<dl class="tiles">\n{tiles}</dl>'


def _metrics(card: pb.ModelCard) -> str:
    if not card.metrics:
        return ""
    parent = card.quantization.parent_metrics
    names = sorted(card.metrics)
    if not parent:
        rows: list[Sequence[_Text]] = [(_words(n), number_text(card.metrics[n])) for n in names]
        return _note(_measured_on(card)) + _table(["Metric", "Value"], rows, numbers=1)
    rows = [
        (
            _words(name),
            number_text(card.metrics[name]),
            number_text(parent[name]) if name in parent else "",
        )
        for name in names
    ]
    header = ["Metric", "This version", f"Version {card.quantization.parent_version}"]
    return _note(_measured_on(card)) + _table(header, rows, numbers=2)


def _measured_on(card: pb.ModelCard) -> str:
    """Returns a sentence on what the metrics were measured with."""
    if card.HasField("judge"):
        return f"As {card.judge.name}, version {card.judge.version}, reads what this model draws."
    if card.HasField("data") and card.data.test_rows:
        return (
            f"Measured on {card.data.test_rows:,} test rows of {card.data.name}, none of which the "
            "model learned from."
        )
    if card.recipe:
        return f"Measured by the recipe {card.recipe}."
    return "As stated by whoever published the model."


def _plots(plots: Mapping[str, bytes]) -> str:
    figures = []
    for name, png in sorted(plots.items()):
        title = escape(_words(name.removesuffix(".png")))
        data = base64.b64encode(png).decode("ascii")
        figures.append(
            f'<figure><img alt="{title}" src="data:image/png;base64,{data}">'
            f"<figcaption>{title}</figcaption></figure>\n"
        )
    return f'<div class="plots">\n{"".join(figures)}</div>' if figures else ""


def _calls(name: str, card: pb.ModelCard, golden: Golden) -> str:
    parts = [f"<h3>Serve</h3>\n{_block('forwardpass-serve models')}"]
    parts += [
        f"<h3>{escape(call.title)}</h3>\n{_block(call.code)}"
        for call in example_calls(name, card, golden)
    ]
    return _note(f"With this version in models/{name}/.") + "\n".join(parts)


def _signature(card: pb.ModelCard) -> str:
    rows = [
        *(_spec("input", spec) for spec in card.signature.inputs),
        *(_spec("output", spec) for spec in card.signature.outputs),
    ]
    table = _table(["", "Tensor", "Type and shape", "Meaning"], rows)
    sentences = [
        "n is any extent; axis 0 counts independent rows."
        if card.signature.batched
        else "n is any extent; a request is one run, as axis 0 counts no rows."
    ]
    if card.HasField("image"):
        image = card.image
        colours = "greyscale" if image.channels == 1 else "RGB"
        sentences.append(
            f"{image.input} may be given as PNG or JPEG, which the server makes {colours} and "
            f"resizes to {image.width} x {image.height} pixels."
        )
    if card.signature.states:
        pairs = ", ".join(f"{pair.input} from {pair.output}" for pair in card.signature.states)
        sentences.append(f"States carry a sequence from step to step: {pairs}.")
    return table + _note(" ".join(sentences))


def _spec(side: str, spec: pb.TensorSpec) -> Sequence[_Text]:
    role = pb.TensorRole.Name(spec.role).removeprefix("TENSOR_ROLE_").lower()
    shape = ", ".join("n" if extent == -1 else str(extent) for extent in spec.shape)
    return (
        side,
        _code(spec.name),
        f"{DTYPES[spec.data_type].name} ({shape})",
        "" if role == "unspecified" else role,
    )


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    items = "".join(
        f"<li>{'' if label == str(index) else f'<span>{index}</span>'}{escape(label)}</li>\n"
        for index, label in enumerate(labels)
    )
    listed = f'<ol class="labels">\n{items}</ol>'
    if len(labels) <= _MAX_LABELS:
        return listed
    return f"<details><summary>All {len(labels):,} labels</summary>\n{listed}\n</details>"


def _exactness(card: pb.ModelCard, golden: Golden) -> str:
    source = card.golden_source or "torch"
    if card.HasField("quantization"):
        compared, source = "the same graph in float arithmetic", "ONNX Runtime in 8-bit integers"
    elif source == "onnxruntime":
        compared, source = "the same file without the optimiser", "ONNX Runtime"
    else:
        compared = source
    facts: list[tuple[str, _Text]] = [
        ("Greatest difference", f"{card.parity_error:.3g} from {compared}"),
        (
            "Tolerance",
            f"{card.tolerance.relative:.3g} of the answer, plus {card.tolerance.absolute:.3g}",
        ),
        ("Golden data", f"{golden.rows} rows in {GOLDEN_FILE}, answered by {source}"),
    ]
    if card.HasField("row_independence"):
        facts.append(("Row independence", _independence(card.row_independence)))
    parts = [_facts(facts)]
    if card.quantization.differences:
        parts.append(_differences(card.quantization.differences))
    parts.append(_note("This replays the golden data on the machine that is to serve:"))
    parts.append(_block("forwardpass-serve check models"))
    return "\n".join(parts)


def _independence(shared: pb.RowIndependence) -> str:
    if not shared.max_relative_difference:
        return f"{shared.rows} rows in one run are answered exactly as each alone"
    return (
        f"{shared.rows} rows in one run differ from each alone by at most "
        f"{shared.max_relative_difference:.3g} of a row's greatest value"
    )


def _differences(differences: Mapping[str, pb.OutputDifference]) -> str:
    rows: list[Sequence[_Text]] = [
        (
            _code(name),
            f"{each.max_absolute:.3g}",
            f"{each.mean_cosine:.4f}",
            f"{each.same_class:.2%}" if each.HasField("same_class") else "",
        )
        for name, each in sorted(differences.items())
    ]
    header = ["Output", "Greatest difference", "Mean cosine", "Same class"]
    return "<h3>From the version it was made of</h3>\n" + _table(header, rows, numbers=3)


def _data(data: pb.DataSource) -> str:
    facts: list[tuple[str, _Text]] = [
        ("Data set", data.name),
        ("Licence", data.license or "none stated"),
        ("From", data.origin),
        ("Training rows", f"{data.train_rows:,}"),
        ("Test rows", f"{data.test_rows:,}"),
    ]
    facts += [(f"Left out: {what}s", f"{count:,}") for what, count in sorted(data.left_out.items())]
    if data.HasField("pixels"):
        pixels = data.pixels
        facts += [
            ("Brightness, 0 to 1", f"{pixels.mean:.2f} ± {pixels.deviation:.2f}"),
            ("Of the grounds", f"{pixels.ground_mean:.2f} ± {pixels.ground_deviation:.2f}"),
        ]
    facts.append(("SHA-256 of the arrays", _code(data.sha256)))
    return _facts(facts)


def _provenance(card: pb.ModelCard, model: bytes) -> str:
    facts: list[tuple[str, _Text]] = []
    if card.recipe:
        facts.append(("Recipe", card.recipe))
        facts.append(("Seed", str(card.seed)))
    if card.reference:
        facts.append(("Architecture from", card.reference))
    if card.HasField("quantization"):
        parent = card.quantization
        facts += [
            ("Quantised from", f"version {parent.parent_version}"),
            (f"SHA-256 of its {MODEL_FILE}", _code(parent.parent_sha256)),
            ("Calibrated on", f"{parent.calibration_rows:,} rows"),
        ]
    if card.HasField("judge"):
        facts.append((f"SHA-256 of the judge's {MODEL_FILE}", _code(card.judge.sha256)))
    if card.threads:
        facts.append(("Computed with", _count(card.threads, "thread")))
    facts.append(("Software", _pairs(card.versions)))
    if card.settings:
        facts.append(("Settings", _pairs(card.settings)))
    facts.append((f"SHA-256 of {MODEL_FILE}", _code(hashlib.sha256(model).hexdigest())))
    return _facts(facts)


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'


def _block(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def _code(text: str) -> _Markup:
    return _Markup(f"<code>{escape(text)}</code>")


def _facts(facts: Iterable[tuple[str, _Text]]) -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{_html(fact)}</dd>\n" for term, fact in facts)
    return f'<dl class="facts">\n{terms}</dl>'


def _table(header: Sequence[str], rows: Iterable[Sequence[_Text]], *, numbers: int = 0) -> str:
    """Returns a table that scrolls by itself where the page is narrower.

    Args:
        header: Of each column.
        rows: The cells of each.
        numbers: How many columns hold numbers, from the right.
    """
    first = len(header) - numbers
    kinds = [' class="number"' if column >= first else "" for column in range(len(header))]
    lines = [_row("th", header, kinds), *(_row("td", row, kinds) for row in rows)]
    return f'<div class="scroll"><table>\n{"".join(lines)}</table></div>\n'


def _row(tag: str, cells: Sequence[_Text], kinds: Sequence[str]) -> str:
    filled = "".join(
        f"<{tag}{kind}>{_html(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{filled}</tr>\n"


def _html(text: _Text) -> str:
    return text.html if isinstance(text, _Markup) else escape(text)


def _pairs(values: Mapping[str, str]) -> _Markup:
    return _Markup(" ".join(_code(f"{key}={value}").html for key, value in sorted(values.items())))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _words(name: str) -> str:
    text = name.replace("_", " ").replace("-", " ")
    return text[:1].upper() + text[1:]


def _size_text(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
