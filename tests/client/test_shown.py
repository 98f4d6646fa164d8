"""How answers look at a prompt and in a notebook: their sizes, not their values."""

from collections.abc import Callable

import numpy as np
import pytest

from forwardpass.client import ClassScore, Client, Generated, Prediction

from .scripted import Connect

PIXELS = np.random.default_rng(4).integers(0, 256, (3, 4, 4, 1), np.uint8)


def test_a_client_shows_its_address(connect: Connect) -> None:
    assert repr(connect("127.0.0.1:1")) == "Client('127.0.0.1:1')"


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (
            lambda client: client.predict("floats", np.zeros(1_000_000, np.float32)),
            "Prediction('floats' version 1; y: float32 (1000000,))",
        ),
        (
            lambda client: client.embed("features", np.zeros((2, 4), np.float32)),
            "Embeddings('features' version 1; vectors: float32 (2, 3))",
        ),
        (
            lambda client: client.generate("gan", count=2, seed=5),
            "Generated('gan' version 1; samples: uint8 (2, 4, 4, 1); seed 5)",
        ),
        (
            lambda client: client.generate("gan", count=2, seed=5, png=True),
            "Generated('gan' version 1; 2 PNG images; seed 5)",
        ),
        (
            lambda client: client.generate("poet", count=2, seed=5, length=3),
            "Generated('poet' version 1; 2 texts; seed 5)",
        ),
        (
            lambda client: client.model("floats"),
            "Model('floats' version 1, ready; x: float32 (-1,) -> y: float32 (-1,))",
        ),
    ],
    ids=["prediction", "embeddings", "samples", "images", "texts", "model"],
)
def test_at_a_prompt(client: Client, make: Callable[[Client], object], shown: str) -> None:
    assert repr(make(client)) == shown


def test_classes_are_shown_by_name_and_as_bars(client: Client) -> None:
    answer = client.predict("shapes", PIXELS, top_k=2)
    best = answer.classes[0][0]
    assert f"; {best.label} {best.probability:.3f}, " in repr(answer)
    html = answer._repr_html_()
    assert html.count("<tr>") == 1 + 2 * len(PIXELS)
    assert f"width:{best.probability:.0%}" in html


def test_many_of_anything_are_told_by_their_number() -> None:
    row = (ClassScore(0, "<b>", 0.5),)
    many = Prediction(
        model="m",
        version=1,
        outputs={f"y{number}": np.zeros(1) for number in range(9)},
        classes=(row,) * 99,
        images=(b"png",) * 99,
        timing=None,
    )
    assert "5 more" in repr(many)
    assert "95 more" in repr(many)
    assert len(repr(many)) < 400
    html = many._repr_html_()
    assert "and 89 more rows" in html
    assert "and 35 more</div>" in html
    # A label is somebody else's text.
    assert "<td>&lt;b&gt;</td>" in html


def test_pictures_and_texts_are_shown_in_a_notebook(client: Client) -> None:
    for answer in (client.generate("gan", count=3), client.generate("gan", count=3, png=True)):
        assert answer._repr_html_().count('<img src="data:image/png;base64,') == 3
    assert client.generate("poet", count=2, length=3)._repr_html_().count("<pre>") == 2
    numbers = Generated("m", 1, np.zeros((2, 3)), (), (), 7, None)
    assert (
        numbers._repr_html_()
        == "Generated(&#x27;m&#x27; version 1; samples: float64 (2, 3); seed 7)"
    )


def test_a_model_is_a_table_in_a_notebook(client: Client) -> None:
    html = client.model("shapes")._repr_html_()
    assert html.startswith("<b>shapes version 1</b><table>")
    assert "<td>in: image</td><td>uint8 (-1, 4, 4, 1), image</td>" in html
