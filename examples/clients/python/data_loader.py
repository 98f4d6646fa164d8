"""Embeds a folder of pictures in the workers of a PyTorch DataLoader.

python examples/clients/python/data_loader.py MODEL FOLDER [SERVER]
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from forwardpass.client import Client


class Vectors(Dataset[torch.Tensor]):
    """The vectors of pictures, float32 (dimension,) each.

    Args:
        client: Handed to each worker, where it connects at the first call.
        model: A feature extractor's name.
        paths: The pictures.
    """

    def __init__(self, client: Client, model: str, paths: list[Path]) -> None:
        self._client = client
        self._model = model
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        vectors = self._client.embed(self._model, images=self._paths[index]).vectors
        return torch.from_numpy(vectors[0].copy())


def main(model: str, folder: str, server: str = "127.0.0.1:8001") -> None:
    """Prints the shape of each batch."""
    paths = sorted(Path(folder).rglob("*.png"))
    client = Client(server)
    # Had this process called already, its workers would have to be started by "spawn".
    loader = DataLoader(Vectors(client, model, paths), batch_size=64, num_workers=2)
    for batch in loader:
        print(tuple(batch.shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
