"""Makes the pictures of the documents: `make pictures`, once the demo has trained its models.

Those that are plots of a published version come from its artefact; a recipe that has published none
is trained first. All are made small: nobody waits for a document's pictures.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path

from PIL import Image

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, load_golden, read_manifest
from forwardpass.trainer.export.published import Published, find_published, newest_version
from forwardpass.trainer.export.report import REPORT_FILE

OUT = Path(__file__).with_name("pictures")
MAX_BYTES = 60_000
# Tried in this order until the file is small enough: pixels of its longer side, and how many
# colours it has, or how well a photograph is kept.
SIZES, COLOURS, QUALITIES = (1000, 800, 640, 480), (128, 48), (85, 70)
# Wide enough for a page of text, and as high as it takes to see what there is.
_WINDOW = "820,1500"


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of a published version.

    Attributes:
        recipe: Which publishes it.
        plot: The file in the version's folder of plots, without its ending.
        shows_photos: Whether it has more colours than a small PNG file can.
    """

    recipe: str
    plot: str
    shows_photos: bool = False

    @property
    def file(self) -> str:
        """What it is called among the pictures."""
        return f"{self.recipe}-{self.plot}.{'jpg' if self.shows_photos else 'png'}"


PLOTS = (
    Plot("spam", "rules-or-examples"),
    Plot("kernels", "filters", shows_photos=True),
    Plot("regression", "fits"),
    Plot("playground", "decision-boundary"),
    Plot("playground", "hidden-units"),
    Plot("perceptron", "activations"),
    Plot("xor", "decision-boundary"),
    Plot("mnist-cnn", "first-layer-filters"),
    Plot("mnist-resnet", "embedding-map"),
    Plot("faces-pca", "reconstructions", shows_photos=True),
    Plot("words", "word-map"),
    Plot("resnet50-imagenet", "photos", shows_photos=True),
    Plot("transfer", "learning-curves"),
    Plot("sunspots", "walk-forward"),
    Plot("airline", "hidden-state"),
    Plot("text", "bits-by-context"),
    Plot("mnist-gan", "interpolation"),
)
# The course's, whose points train in a minute.
SWEEP = ("digits-mlp", "epochs=12", "--sweep", "learning_rate=1e-4,1e-3,1e-2,1e30")
# What `demo.sh` leaves, by the names that they have here.
DEMO = {"digits.png": "demo-digits.png", "neighbours.png": "demo-neighbours.png"}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="the folder in which demo.sh has worked")
    demo = parser.parse_args().demo
    models = demo / "models"
    OUT.mkdir(exist_ok=True)
    for file, name in DEMO.items():
        _write(name, Image.open(demo / file))
    for plot in PLOTS:
        version = newest_version(models, plot.recipe) or _train(plot.recipe, demo)
        _write(plot.file, Image.open(version / "plots" / f"{plot.plot}.png"))
    _write("sweep.png", _sweep())
    classifier = find_published(models, "mnist-cnn", None)
    _write("report.png", _screenshot(classifier.folder / REPORT_FILE))
    (OUT / "artefact.svg").write_text(draw_artefact(classifier), encoding="utf-8")


def _train(recipe: str, demo: Path) -> Path:
    _run(demo / "models", demo / "runs", recipe)
    version = newest_version(demo / "models", recipe)
    assert version is not None
    return version


def _sweep() -> Image.Image:
    """Returns the picture of a sweep, whose best point is published where nobody looks."""
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder, "models"), Path(folder, "runs"), *SWEEP)
        (file,) = Path(folder, "runs").glob("*/sweep-*/sweep.png")
        with Image.open(file) as picture:
            return picture.copy()


def _run(models: Path, runs: Path, *arguments: str) -> None:
    program = str(Path(sys.executable).with_name("forwardpass-train"))
    folders = ["--models", str(models), "--runs", str(runs)]
    subprocess.run([program, "run", *arguments, *folders], check=True)


def _write(name: str, picture: Image.Image) -> None:
    (OUT / name).write_bytes(shrunk(picture, is_photo=name.endswith(".jpg")))


def shrunk(picture: Image.Image, *, is_photo: bool = False) -> bytes:
    """Returns a picture as a file of at most `MAX_BYTES`, as large as that allows.

    Args:
        picture: The picture.
        is_photo: Whether it becomes a JPEG file, and no PNG file.

    Raises:
        ValueError: It is too large at its smallest.
    """
    for size, detail in product(SIZES, QUALITIES if is_photo else COLOURS):
        smaller = picture.convert("RGB")
        smaller.thumbnail((size, size), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        if is_photo:
            smaller.save(file, "JPEG", quality=detail, optimize=True)
        else:
            # Not dithered: a PNG file is small where areas are of one colour, as most here are.
            flat = smaller.quantize(detail, dither=Image.Dither.NONE)
            flat.save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            return file.getvalue()
    raise ValueError(f"{file.tell()} bytes at the smallest, and {MAX_BYTES} are allowed")


def _screenshot(page: Path) -> Image.Image:
    """Returns the top of a page as Chromium shows it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={_WINDOW}"]
        command = ["chromium", *options, f"--screenshot={file}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(file) as picture:
            return picture.copy()


def draw_artefact(published: Published) -> str:
    """Returns a drawing, as SVG, of how a version came to be, with what each step found."""
    card, folder = published.card, published.folder
    golden = load_golden(folder / GOLDEN_FILE)
    files = read_manifest(folder).files
    kilobytes = files[MODEL_FILE].size / 1000
    rows = len(next(iter(golden.inputs.values())))
    steps = (
        ("train", f"{card.parameters:,} weights,", f"accuracy {card.metrics['accuracy']:.4f}"),
        ("export", "ONNX with its pre-", f"processing: {kilobytes:,.0f} kB"),
        ("compare", "ONNX Runtime is within", f"{card.parity_error:.1g} of torch"),
        ("seal", f"{len(files)} files, SHA-256 each,", "in manifest.json, last"),
        ("load", f"{rows} golden rows are", "answered as torch did"),
        ("serve", "Predict, Embed, Generate,", "Open Inference Protocol"),
    )
    return _boxes(f"{card.recipe}: from data to answers", steps)


def _boxes(title: str, steps: Sequence[tuple[str, str, str]]) -> str:
    """Returns boxes side by side with arrows between them; each has a heading and two lines."""
    width, height, gap, edge, top = 192, 92, 28, 12, 44
    parts = []
    for number, (heading, *lines) in enumerate(steps):
        x = edge + number * (width + gap)
        parts.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="8" class="box"/>'
            f'<text x="{x + 12}" y="{top + 26}" class="heading">{escape(heading)}</text>'
        )
        parts += [
            f'<text x="{x + 12}" y="{top + 52 + 20 * line}">{escape(text)}</text>'
            for line, text in enumerate(lines)
        ]
        if number:
            y = top + height // 2
            parts.append(f'<path d="M{x - gap + 4} {y}H{x - 6}" class="arrow"/>')
    all_of_it = 2 * edge + len(steps) * (width + gap) - gap
    drawn = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {all_of_it} {top + height + edge}" \
role="img" aria-label="{escape(title)}">
<style>
text {{ font: 13px system-ui, sans-serif; fill: #1f2933; }}
.title, .heading {{ font-weight: 600; }}
.title {{ font-size: 16px; }}
.box {{ fill: #f2f6fb; stroke: #4a6fa5; }}
.arrow {{ stroke: #4a6fa5; stroke-width: 2; fill: none; marker-end: url(#head); }}
</style>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="4" refY="4" orient="auto">\
<path d="M0 0L6 4L0 8z" fill="#4a6fa5"/></marker></defs>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{edge}" y="26" class="title">{escape(title)}</text>
{drawn}
</svg>
"""


if __name__ == "__main__":
    main()
