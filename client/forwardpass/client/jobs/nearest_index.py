"""Nearest vectors without a look at all of them (extra `search`): the graph of Malkov and Yashunin,
"Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World
graphs", 2018, as hnswlib has it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.jobs.embedder import cores
from forwardpass.client.jobs.errors import JobError
from forwardpass.client.jobs.folder import JobFolder
from forwardpass.client.jobs.vectors import JobVectors

_PATTERN = "index-*"
# Links of a vector, and how many candidates are looked at while it is linked and while one is
# asked for: hnswlib's own, but for the last, which has to be above the number of answers.
_LINKS, _CANDIDATES, _LEAST_LOOKED_AT = 16, 200, 100
_SEED = 1


class NearestIndex:
    """An index of a job's vectors, kept in its folder; made anew where it is not of these vectors.

    Args:
        folder: A job.
        vectors: Its vectors.

    Raises:
        JobError: It cannot be made or read.
        OSError: It cannot be written.
    """

    def __init__(self, folder: JobFolder, vectors: JobVectors) -> None:
        import hnswlib

        self._count = len(vectors)
        # Cosines of vectors of length 1.
        self._index: Any = hnswlib.Index(space="ip", dim=folder.spec.space.dimension)
        self._index.set_num_threads(cores())
        path = folder.path / f"index-{_digest(folder)}.hnsw"
        try:
            if path.exists():
                self._index.load_index(str(path), max_elements=self._count)
            else:
                self._make(vectors, path)
        except RuntimeError as error:
            raise JobError(f"{path}: {error}; delete it, and it is made anew") from None

    def nearest(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns what `JobVectors.nearest` does, but for some that it may miss."""
        k = min(k, self._count)
        self._index.set_ef(max(2 * k, _LEAST_LOOKED_AT))
        numbers, distances = self._index.knn_query(queries, k)
        return numbers.astype(np.int64), 1 - distances

    def _make(self, vectors: JobVectors, path: Path) -> None:
        self._index.init_index(
            max_elements=self._count,
            M=_LINKS,
            ef_construction=_CANDIDATES,
            random_seed=_SEED,
        )
        for start, block in vectors.blocks():
            self._index.add_items(block, np.arange(start, start + len(block)))
        part = path.with_suffix(f".{os.getpid()}.part")
        self._index.save_index(str(part))
        part.replace(path)
        # Those of other vectors, and what a kill has left.
        for old in path.parent.glob(_PATTERN):
            if old != path:
                old.unlink(missing_ok=True)


def _digest(folder: JobFolder) -> str:
    """Returns what tells the vectors of a folder from others."""
    digest = hashlib.sha256(folder.spec.id.encode())
    for number, shard in sorted(folder.shards.items()):
        digest.update(f"{number} {shard.sha256}".encode())
    return digest.hexdigest()[:16]
