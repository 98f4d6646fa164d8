"""What every plot has in common."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from forwardpass.pixels import decode_image
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.embedding import embedding_map
from forwardpass.trainer.plots.pictures import worst_mistakes
from forwardpass.trainer.plots.plane import decision_boundary, hidden_space, point_labels

RED, BLUE = (255, 0, 0), (0, 0, 255)
POINTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)

DRAWN = """
import sys
from forwardpass.trainer.plots.canvas import drawing, to_png
with drawing(2, 1) as figure:
    figure.subplots().set_title("$a_1$ and b")
    sys.stdout.buffer.write(to_png(figure))
"""


def test_a_plot_is_the_same_whatever_the_users_matplotlibrc_says(tmp_path: Path) -> None:
    """Text set by TeX would need one that is installed."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.dpi: 7\nfont.size: 40\n")
    drawn = [
        subprocess.run(
            [sys.executable, "-c", DRAWN], env=os.environ | more, check=True, capture_output=True
        ).stdout
        for more in ({}, {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG")


def has_colour(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


def mistakes_picture(wrong: int, right: int) -> NDArray[np.uint8]:
    """Draws the mistakes of a classifier: what it gets wrong is blue, what it gets right is red."""
    images = np.zeros((wrong + right, 4, 4, 3), np.uint8)
    images[:wrong], images[wrong:] = BLUE, RED
    probabilities = np.full((wrong + right, 2), [0.6, 0.4], np.float32)
    true = np.array([1] * wrong + [0] * right)
    return decode_image(worst_mistakes(images, probabilities, true, ["cat", "dog"]), 3)


@pytest.mark.parametrize(("wrong", "rows"), [(1, 1), (8, 1), (9, 2), (24, 3), (30, 3)])
def test_worst_mistakes_are_mistakes_alone(wrong: int, rows: int) -> None:
    picture = mistakes_picture(wrong, 40)

    assert has_colour(picture, BLUE)
    assert not has_colour(picture, RED)
    assert picture.shape[0] == int(120 * (0.5 + 1.7 * rows))


def test_where_nothing_is_mistaken_the_picture_says_so() -> None:
    picture = mistakes_picture(0, 40)

    assert not has_colour(picture, RED)
    assert (picture < 100).any()  # a line of text


def test_points_that_the_hidden_layer_puts_together_share_a_label_with_both_names() -> None:
    hidden = np.array([[0, 0], [1, 0], [1, 0.001], [2, 1]], np.float32)

    (origin, zero), (middle, both), (_, one) = point_labels(POINTS, hidden)

    assert (zero, both, one) == ("(0, 0)", "(0, 1)\n(1, 0)", "(1, 1)")
    assert origin == (0, 0)
    assert middle == pytest.approx((1, 0.0005))
    drawn = hidden_space(POINTS, hidden, np.array([0, 1, 1, 0]), np.array([1, -2]), 0.0)
    swapped = hidden_space(POINTS[::-1], hidden, np.array([0, 1, 1, 0]), np.array([1, -2]), 0.0)
    assert drawn != swapped


def test_the_ticks_of_a_decision_boundary_do_not_collide() -> None:
    xs = np.linspace(-0.5, 1.5, 41, dtype=np.float32)
    values = np.abs(np.subtract.outer(xs, xs))
    picture = decode_image(decision_boundary(xs, values, POINTS, np.array([0, 1, 1, 0])), 3)
    left = picture[:, : picture.shape[1] * 5 // 6].astype(np.int64)  # without the scale of colours
    coloured = np.flatnonzero(np.ptp(left, axis=2).max(axis=1) > 100)
    bottom = int(coloured[np.diff(coloured, append=coloured[-1]).argmax()])  # then comes the legend
    band = left[bottom + 12 : bottom + 28].min(axis=(0, 2)) < 128  # columns of text

    columns = np.flatnonzero(band)
    words = np.split(columns, np.flatnonzero(np.diff(columns) > 10) + 1)

    assert len(words) == 5
    assert max(word[-1] - word[0] for word in words) < 50


def test_embeddings_are_drawn_by_components_and_by_neighbours_the_same_each_time() -> None:
    draws = np.random.default_rng(0)
    classes = np.arange(60) % 3
    vectors = (draws.normal(size=(60, 8)) + 9 * np.eye(8)[classes]).astype(np.float32)

    drawn = embedding_map(vectors, classes, ["a", "b", "c"])

    assert embedding_map(vectors, classes, ["a", "b", "c"]) == drawn
    picture = decode_image(drawn, 3).astype(np.int64)
    points = np.flatnonzero((np.ptp(picture, axis=2) > 60).any(axis=0)) / picture.shape[1]
    assert ((points > 0.06) & (points < 0.49)).sum() > 50
    assert ((points > 0.51) & (points < 0.92)).sum() > 50


def test_two_embeddings_are_enough_for_a_map() -> None:
    drawn = embedding_map(np.eye(2, 5, dtype=np.float32), np.array([0, 1]), ["a", "b"])

    assert drawn.startswith(b"\x89PNG")


def test_classes_may_be_called_anything() -> None:
    labels = ["$5 to $9_x^", "日本語 😀", "a long name " * 9, r"\frac{"]
    classes = np.arange(4)
    picture = decode_image(confusion_matrix(classes, classes, labels), channels=3)
    assert picture.shape == (648, 744, 3)
