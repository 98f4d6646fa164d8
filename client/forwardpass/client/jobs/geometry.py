"""What is done to vectors."""

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns vectors, (rows, dimension), scaled to length 1; the zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = vectors / np.where(lengths == 0, 1, lengths).astype(np.float32)
    return scaled.astype(np.float32, copy=False)
