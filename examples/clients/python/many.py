"""Asks a model about every picture in a folder, however many there are.

python examples/clients/python/many.py MODEL FOLDER [SERVER]
"""

import asyncio
import sys
from pathlib import Path

from forwardpass.client import AsyncClient, ForwardpassError


async def tell(model: str, paths: list[Path], server: str) -> None:
    """Prints a line for each picture: its class and probability, or what is wrong with it."""
    async with AsyncClient(server) as client:
        answers = client.predict_many(model, images=paths, top_k=1)
        # Answers come in the order of the pictures; a few requests are ahead of them.
        remaining = iter(paths)
        async for answer in answers:
            path = next(remaining)
            if isinstance(answer, ForwardpassError):
                print(f"{path}: {answer.message}")
            else:
                (best,) = answer.classes[0]
                print(f"{path}: {best.label} ({best.probability:.2f})")


def main(model: str, folder: str, server: str = "127.0.0.1:8001") -> None:
    """Finds the pictures and asks about them."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    asyncio.run(tell(model, paths, server))


if __name__ == "__main__":
    main(*sys.argv[1:])
