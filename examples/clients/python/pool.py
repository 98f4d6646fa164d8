"""Embeds a folder of pictures in the processes of a pool.

python examples/clients/python/pool.py MODEL FOLDER [SERVER]
"""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forwardpass.client import Client

_client: Client
_model: str


def begin(client: Client, model: str) -> None:
    """Takes what a process of the pool needs, once; the client comes as its settings."""
    global _client, _model
    _client, _model = client, model


def embed(path: Path) -> NDArray[np.float32]:
    """Returns a picture's vector, float32 (dimension,)."""
    (vector,) = _client.embed(_model, images=path).vectors
    embedded: NDArray[np.float32] = vector
    return embedded


def main(model: str, folder: str, server: str = "127.0.0.1:8001") -> None:
    """Prints the shape of all vectors."""
    paths = sorted(Path(folder).rglob("*.png"))
    with Client(server) as client:
        # This process calls, so the others may not be forked from it.
        print("dimension", client.model(model).embedding_spaces[0].dimension)
        context = multiprocessing.get_context("spawn")
        with context.Pool(2, begin, (client, model)) as pool:
            print(np.stack(pool.map(embed, paths, chunksize=16)).shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
