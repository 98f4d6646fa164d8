"""The pictures of the documents: small, all there, and each shown somewhere."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from training import Publish

from docs import make_pictures

ROOT = Path(__file__).parents[2]
# Those that people read; pictures are named from the page's own folder.
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"))
    if path.name != "CHANGELOG.md"
)
_SHOWN = re.compile(r'(?:!\[(?P<alt>[^\]]*)\]\(|<img src=")(?P<target>[^)"\s]+\.(?:png|jpg|svg))')


def shown() -> dict[Path, str]:
    """Returns the pictures that pages show, and what each is called for who cannot see it."""
    found = {}
    for page in PAGES:
        for match in _SHOWN.finditer(page.read_text(encoding="utf-8")):
            if "://" not in match["target"]:
                found[(page.parent / match["target"]).resolve()] = match["alt"]
    return found


def test_a_picture_that_a_page_shows_is_there_and_has_a_text() -> None:
    for picture, text in shown().items():
        assert picture.is_file(), picture
        assert text, picture


def test_what_make_pictures_makes_is_shown_and_small() -> None:
    made = {plot.file for plot in make_pictures.PLOTS} | set(make_pictures.DEMO.values())
    made |= {"report.png", "artefact.svg", "sweep.png"}
    assert {path.name for path in make_pictures.OUT.iterdir()} == made
    assert made == {path.name for path in shown() if path.parent == make_pictures.OUT}
    for path in make_pictures.OUT.iterdir():
        assert path.stat().st_size <= make_pictures.MAX_BYTES, path


def test_a_picture_is_made_as_large_as_its_bytes_allow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    flat = np.full((900, 1200, 3), 200, np.uint8)
    sizes = {}
    for name, pixels in {"noise": noise, "flat": flat}.items():
        file = make_pictures.shrunk(Image.fromarray(pixels), is_photo=True)
        assert len(file) <= make_pictures.MAX_BYTES
        sizes[name] = Image.open(io.BytesIO(file)).size
    assert sizes["flat"] == (1000, 750)
    assert sizes["noise"] < sizes["flat"]
    # No number of colours makes noise small.
    with pytest.raises(ValueError, match="at the smallest"):
        make_pictures.shrunk(Image.fromarray(noise))


@pytest.mark.parametrize("recipe", ["digits-mlp"])
def test_the_drawing_of_an_artefact_says_what_its_card_does(
    publish_once: Publish, recipe: str
) -> None:
    published = publish_once(recipe)
    drawing = make_pictures.draw_artefact(published)
    texts = " ".join(ET.fromstring(drawing).itertext())
    assert f"{published.card.parameters:,} weights" in texts
    assert f"accuracy {published.card.metrics['accuracy']:.4f}" in texts
    assert "8 golden rows" in texts
