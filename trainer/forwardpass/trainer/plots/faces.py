"""What few numbers keep of a face."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from forwardpass.pixels import image_grid
from forwardpass.trainer.plots.canvas import TRAIN, VALIDATION, drawing, to_png

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def eigenfaces(mean: Floats, components: Floats, shares: Floats) -> bytes:
    """Draws the mean face, and the directions in which faces differ from it; grey is no change.

    Args:
        mean: (h, w, 1), in 0..255.
        components: (count, h, w, 1).
        shares: Of the variance, along each component (count).
    """
    columns = 8
    rows = -(-(len(components) + 1) // columns)
    with drawing(1.25 * columns, 1.75 * rows + 0.4) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        panels[0].imshow(mean[..., 0], cmap="gray", vmin=0, vmax=255)
        panels[0].set_title("mean", fontsize=9)
        for axes, component, share in zip(panels[1:], components, shares, strict=False):
            bound = float(np.abs(component).max())
            axes.imshow(component[..., 0], cmap="gray", vmin=-bound, vmax=bound)
            axes.set_title(f"{share:.1%}", fontsize=9)
        figure.suptitle("The mean face, eigenfaces, and their shares of the variance")
        return to_png(figure)


def explained_variance(train: Floats, test: Floats, marks: Sequence[int]) -> bytes:
    """Draws what share of the variance so many components keep.

    Args:
        train: Of the images that the components are of, for 1 component, 2 and so on.
        test: Of other images, likewise.
        marks: Numbers of components to mark.
    """
    with drawing(7, 4) as figure:
        axes = figure.subplots()
        for name, colour, shares in (("train", TRAIN, train), ("test", VALIDATION, test)):
            axes.plot(range(1, len(shares) + 1), shares, color=colour, label=f"{name} photos")
            for mark in marks:
                axes.plot(mark, shares[mark - 1], color=colour, marker="o", markersize=5)
                axes.annotate(
                    f"{shares[mark - 1]:.0%}",
                    (mark, shares[mark - 1]),
                    xytext=(0, 7 if name == "train" else -14),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    color=colour,
                )
        axes.set(
            title="Variance of faces that components explain",
            xlabel="components",
            ylabel="share of the variance",
            xscale="log",
            ylim=(0, 1.05),
        )
        ticks = [1, *marks, len(train)]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(loc="lower right")
        return to_png(figure)


def reconstructions(rows: Mapping[str, Pixels]) -> bytes:
    """Draws the same images in rows, each row as another model has it.

    Args:
        rows: By name, uint8 (n, h, w, 1).
    """
    count, height, width, _ = next(iter(rows.values())).shape
    with drawing(1.1 * count + 1.6, 1.1 * height / width * len(rows) + 0.3) as figure:
        panels = figure.subplots(len(rows), 1, squeeze=False).ravel()
        for axes, (name, images) in zip(panels, rows.items(), strict=True):
            axes.imshow(image_grid(images, count)[..., 0], cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        figure.suptitle("Photographs that were not learned from, drawn from few numbers")
        return to_png(figure)


def people_map(embeddings: Floats, images: Pixels, people: NDArray[np.int64]) -> bytes:
    """Draws images where their embeddings lie on the two axes along which these vary most.

    Lines join the images of one person.

    Args:
        embeddings: (n, width).
        images: uint8 (n, h, w, 1).
        people: Whose each image is (n).
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    shares = sizes[:2] ** 2 / (sizes**2).sum()
    with drawing(9, 8) as figure:
        axes = figure.subplots()
        for person in np.unique(people):
            own = points[people == person]
            axes.plot(own[:, 0], own[:, 1], color=VALIDATION, linewidth=1.2, zorder=1)
        for point, image in zip(points, images, strict=True):
            small = OffsetImage(image.repeat(3, axis=2), zoom=0.32)
            axes.add_artist(AnnotationBbox(small, (point[0], point[1]), pad=0.1))
        low, high = points.min(axis=0), points.max(axis=0)
        pad = 0.06 * (high - low)
        axes.set(
            title=f"{len(points)} test photos by their {embeddings.shape[1]}-number embedding; "
            "a line joins those of one person",
            xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
            ylabel=f"second ({shares[1]:.0%})",
            xlim=(low[0] - pad[0], high[0] + pad[0]),
            ylim=(low[1] - pad[1], high[1] + pad[1]),
        )
        return to_png(figure)
