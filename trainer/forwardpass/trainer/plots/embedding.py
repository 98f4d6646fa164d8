"""A map of feature vectors."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from forwardpass.trainer.plots.canvas import drawing, to_png


def embedding_map(
    embeddings: NDArray[np.float32], classes: NDArray[np.int64], labels: Sequence[str]
) -> bytes:
    """Draws the vectors on the two axes along which they vary most, coloured by class.

    Args:
        embeddings: (n, dimension).
        classes: Class indices (n).
        labels: The name of each class.
    """
    pca = PCA(n_components=2, svd_solver="full").fit(embeddings)
    points = pca.transform(embeddings)
    shares = pca.explained_variance_ratio_
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined] # of listed maps
    with drawing(6.6, 5.6) as figure:
        axes = figure.subplots()
        for index, label in enumerate(labels):
            own = points[classes == index]
            axes.scatter(
                own[:, 0],
                own[:, 1],
                s=5,
                alpha=0.6,
                linewidths=0,
                color=colours[index],
                label=label,
            )
        axes.set(
            title=f"{len(points):,} test examples by their {embeddings.shape[1]}-number embedding",
            xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
            ylabel=f"second ({shares[1]:.0%})",
        )
        axes.legend(title="class", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
        return to_png(figure)
