"""Words by their vectors: which are near which."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from forwardpass.trainer.plots.canvas import TRAIN, drawing, to_png

Vectors = NDArray[np.float32]


def nearest_words(vectors: Vectors, word: int, count: int) -> tuple[list[int], list[float]]:
    """Returns the words whose vectors have the greatest cosines with a word's, and the cosines.

    Args:
        vectors: (words, dimension).
        word: Its index; it is not among its own neighbours.
        count: How many to return.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[word] / np.maximum(lengths * lengths[word], 1e-12)
    cosines[word] = -np.inf
    nearest = np.argsort(-cosines, kind="stable")[:count]
    return nearest.tolist(), cosines[nearest].tolist()


def neighbour_table(
    words: Sequence[str], vectors: Vectors, probes: Sequence[str], count: int
) -> bytes:
    """Draws the nearest words of some words, with the cosines of their vectors.

    Args:
        words: The vocabulary.
        vectors: (words, dimension).
        probes: Whose neighbours; those that are not in the vocabulary are left out.
        count: How many neighbours of each.
    """
    known = [probe for probe in probes if probe in words]
    with drawing(1.5 * (count + 1), 0.42 * (len(known) + 2)) as figure:
        axes = figure.subplots()
        for row, probe in enumerate(known):
            axes.text(0, row, probe, weight="bold", va="center")
            nearest, cosines = nearest_words(vectors, words.index(probe), count)
            for place, (word, cosine) in enumerate(zip(nearest, cosines, strict=True), start=1):
                axes.text(place, row, words[word], va="center")
                axes.text(place, row + 0.36, f"{cosine:.2f}", va="center", size=6, color="#777777")
        axes.set_xlim(-0.05, count + 1)
        axes.set_ylim(len(known), -0.7)
        axes.set_axis_off()
        axes.set_title("Words and their nearest, with the cosine of the two vectors", loc="left")
        return to_png(figure)


def word_map(words: Sequence[str], vectors: Vectors) -> bytes:
    """Draws words where t-SNE puts them: van der Maaten and Hinton, "Visualizing data using t-SNE",
    2008. Those that are near in the picture have similar vectors; far ones may have too.

    Args:
        words: At least three.
        vectors: Theirs, (words, dimension).
    """
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    perplexity = min(12, len(words) - 1)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(directions)
    with drawing(13, 9) as figure:
        axes = figure.subplots()
        axes.scatter(points[:, 0], points[:, 1], s=3, color=TRAIN, alpha=0.4)
        for word, (x, y) in zip(words, points, strict=True):
            axes.annotate(word, (x, y), fontsize=8, ha="center", va="bottom")
        axes.set_axis_off()
        axes.set_title(
            f"The {len(words)} most frequent words of four letters or more, similar ones together",
        )
        return to_png(figure)
