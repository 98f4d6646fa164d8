"""A map of feature vectors."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from forwardpass.trainer.plots.canvas import drawing, to_png

# t-SNE takes 6 seconds of one core for 1,000 vectors, and 14 for 1,800.
_TSNE_ROWS = 1_000
# Its authors advise 5 to 50 neighbours, and to look at no more than about 50 axes.
_PERPLEXITY, _TSNE_AXES = 30, 50


def embedding_map(
    embeddings: NDArray[np.float32], classes: NDArray[np.int64], labels: Sequence[str]
) -> bytes:
    """Draws the vectors twice, coloured by class: on the two axes along which they vary most, and
    where t-SNE puts them, which keeps near ones near and says nothing of how far others are.

    Args:
        embeddings: (n, dimension); of more than 1,000 t-SNE gets 1,000, evenly spread.
        classes: Class indices (n).
        labels: The name of each class.
    """
    pca = PCA(min(_TSNE_AXES, *embeddings.shape), svd_solver="full").fit(embeddings)
    points = pca.transform(embeddings)
    shares = pca.explained_variance_ratio_
    rows = np.unique(np.linspace(0, len(points) - 1, _TSNE_ROWS).astype(np.int64))
    subset = f"{len(rows):,} of them" if len(rows) < len(points) else "The same"
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined] # of listed maps
    with drawing(11.4, 5.4) as figure:
        left, right = figure.subplots(1, 2)
        for axes, places, own in (
            (left, points[:, :2], classes),
            (right, _neighbour_map(points[rows]), classes[rows]),
        ):
            for index, label in enumerate(labels):
                x, y = places[own == index].T
                style = {"s": 5, "alpha": 0.6, "linewidths": 0, "color": colours[index]}
                axes.scatter(x, y, label=label, **style)
        left.set(
            title=f"{len(points):,} test examples on two principal components",
            xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
            ylabel=f"second ({shares[1]:.0%})",
        )
        right.set(
            title=f"{subset}, where t-SNE puts them",
            xlabel="near is alike; far says nothing",
            xticks=[],
            yticks=[],
        )
        figure.suptitle(f"Embeddings of {embeddings.shape[1]:,} numbers, on a plane")
        right.legend(title="class", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
        return to_png(figure)


def _neighbour_map(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns places in the plane (n, 2), by van der Maaten and Hinton, "Visualizing data using
    t-SNE", 2008; the same each time.
    """
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
    places: NDArray[np.float32] = tsne.fit_transform(vectors)
    return places
